"""Everything that must be there before a LoraFineTune is applied: cluster, images, operator, object store, model, rows.

Also the environment of the cluster tests. Safe to call at any time: what is there is left alone.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.cluster import images, lifecycle, loading, toolchain
from tests.cluster.commands import require_root
from tests.cluster.settings import OBJECT_STORE_IMAGE, Paths
from tests.demo import object_store
from tests.demo.kubectl import Kubectl
from tests.demo.object_store import Account
from tests.demo.timings import Timings

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINER_PYTHON = REPOSITORY / ".venv-trainer/bin/python"
MANIFESTS = REPOSITORY / "manifests"
OPERATOR_IMAGE = "localhost/lora-operator/operator:dev"
TRAINER_IMAGE = "localhost/lora-operator/trainer:dev"
PREPARE_IMAGE = "localhost/lora-operator/prepare:dev"
DOCKERFILES: dict[str, tuple[str, str | None]] = {
    OPERATOR_IMAGE: ("operator/Dockerfile", None),
    PREPARE_IMAGE: ("trainer-image/Dockerfile", "prepare"),
    TRAINER_IMAGE: ("trainer-image/Dockerfile", None),
}
"""Dockerfile and target of every image that is built."""
OPERATOR_NAMESPACE = "lora-operator-system"
TENANT = "team-a"
MODEL_PREFIX = "models/SmolLM2-135M-Instruct"
ROWS_PREFIX = "datasets/text-to-sql"

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What callers need of it."""

    kubectl: Kubectl
    account: Account
    own_cluster: bool
    """Whether the cluster is the one of tests/cluster."""


def ensure_environment(timings: Timings) -> Environment:
    """Bring everything up. Raises ClusterError, RequirementError or KubectlError."""
    given = os.environ.get("KUBECONFIG")
    own = Paths.from_environment()
    if given and Path(given) != own.kubeconfig:
        kubectl = Kubectl(program="kubectl", kubeconfig=Path(given))
        with timings.part("model and rows"):
            assets = _assets()
        return _install(kubectl, timings, assets=assets, own_cluster=False)
    require_root(verb="demo")
    with ThreadPoolExecutor(2) as pool:
        # Go builds keep the processors busy while image builds wait for the network and the disk.
        cluster = pool.submit(_cluster_up, own, timings)
        built = pool.submit(_build_images, own, timings)
        cluster.result()
        built.result()
    with timings.part("images into the cluster"):
        for tag in (*DOCKERFILES, OBJECT_STORE_IMAGE):
            loading.load(paths=own, tag=tag, report=_reporter(timings))
    with timings.part("model and rows"):
        assets = _assets()
    kubectl = Kubectl(program=own.state / "bin/kubectl", kubeconfig=own.kubeconfig)
    return _install(kubectl, timings, assets=assets, own_cluster=True)


def existing_environment() -> Environment:
    """The environment that `ensure_environment` has made before."""
    own = Paths.from_environment()
    given = Path(os.environ.get("KUBECONFIG", own.kubeconfig))
    is_own = given == own.kubeconfig
    kubectl = Kubectl(program=own.state / "bin/kubectl" if is_own else "kubectl", kubeconfig=given)
    account = object_store.ensure_account(kubectl, namespace=TENANT)
    return Environment(kubectl=kubectl, account=account, own_cluster=is_own)


def _reporter(timings: Timings) -> Report:
    return lambda line: timings.console.print(f"  {line}", style="dim", markup=False, highlight=False)


def _cluster_up(paths: Paths, timings: Timings) -> None:
    with timings.part("cluster programs"):
        programs = toolchain.build(paths=paths, report=_reporter(timings))
    images.build_static(paths=paths, tag=OBJECT_STORE_IMAGE, program=programs["versitygw"], report=_reporter(timings))
    with timings.part("cluster"):
        lifecycle.up(paths=paths, report=_reporter(timings))


def _build_images(paths: Paths, timings: Timings) -> None:
    with timings.part("images"):
        report = _reporter(timings)
        images.build_base(paths=paths, report=report)
        for tag, (file, target) in DOCKERFILES.items():
            images.build(paths=paths, context=REPOSITORY, file=REPOSITORY / file, target=target, tag=tag, report=report)


def _assets() -> Path:
    """The folder with model and rows; the trainer's environment makes it."""
    command = [TRAINER_PYTHON, "-m", "tests.support.demo_assets"]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip().splitlines()[-1])


def _install(kubectl: Kubectl, timings: Timings, *, assets: Path, own_cluster: bool) -> Environment:
    with timings.part("operator and object store"):
        kubectl.apply_crds("-k", MANIFESTS / "crd")
        kubectl("apply", "-f", MANIFESTS / "demo/object-store/namespace.yaml")
        object_store.ensure_root_secret(kubectl)
        _apply_demo(kubectl)
        if own_cluster:
            _roll_out_new_image(kubectl)
        for namespace, name in ((OPERATOR_NAMESPACE, "lora-operator"), (object_store.NAMESPACE, "object-store")):
            kubectl.wait_for_rollout(namespace, name)
        account = object_store.ensure_account(kubectl, namespace=TENANT)
    with timings.part("upload of model and rows"), object_store.bucket(kubectl, account) as store:
        object_store.upload_folder(store, assets / "SmolLM2-135M-Instruct", MODEL_PREFIX)
        object_store.upload_folder(store, assets / "spider", ROWS_PREFIX)
    return Environment(kubectl=kubectl, account=account, own_cluster=own_cluster)


def _apply_demo(kubectl: Kubectl) -> None:
    """`kubectl apply -k manifests/demo`, with images from the environment where they are named there."""
    names = {
        OPERATOR_IMAGE: os.environ.get("OPERATOR_IMAGE"),
        PREPARE_IMAGE: os.environ.get("PREPARE_IMAGE"),
        TRAINER_IMAGE: os.environ.get("TRAINER_IMAGE"),
        OBJECT_STORE_IMAGE: os.environ.get("OBJECT_STORE_IMAGE"),
    }
    text = kubectl("kustomize", MANIFESTS / "demo")
    for local, given in names.items():
        text = text.replace(local, given or local)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        kubectl("apply", "--server-side", "--force-conflicts", "-f", file.name)


def _roll_out_new_image(kubectl: Kubectl) -> None:
    """The tag stays the same when the image changes, so its id in the pod template makes the Deployment notice."""
    image = images.inspect(OPERATOR_IMAGE, paths=Paths.from_environment())
    if image is None:
        raise LookupError(f"{OPERATOR_IMAGE} was not built")
    patch = {"spec": {"template": {"metadata": {"annotations": {"lora-operator.io/image-id": image.id}}}}}
    kubectl("-n", OPERATOR_NAMESPACE, "patch", "deployment/lora-operator", "--type=merge", "-p", yaml.safe_dump(patch))
