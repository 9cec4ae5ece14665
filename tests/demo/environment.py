"""Everything that must be there before a LoraFineTune is applied: cluster, images, operator, object store, model, rows.

Also the environment of the cluster tests. Safe to call at any time: what is there is left alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import images, lifecycle, loading, system_packages, toolchain
from tests.cluster.commands import require_root, run
from tests.cluster.settings import OBJECT_STORE_IMAGE, Paths
from tests.demo import object_store
from tests.demo.kubectl import Kubectl
from tests.demo.object_store import Account
from tests.demo.timings import Timings
from tests.support import demo_assets

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
            assets = _assets_without_images(_reporter(timings))
        return _install(kubectl, timings, assets=assets, own_cluster=False)
    require_root(verb="demo")
    with ThreadPoolExecutor(5) as pool:
        # Side by side, because Go's builds keep the processors busy while the others wait for network and disk.
        programs = pool.submit(_build_programs, own, timings)
        packages = pool.submit(_install_system_packages, timings)
        built = pool.submit(_build_images, own, timings, after=packages)
        made = pool.submit(_assets, own, timings, after=built)
        cluster = pool.submit(_cluster_up, own, timings, after=(programs, packages))
        for part in (packages, programs, built, cluster, made):
            part.result()
    with timings.part("images into the cluster"):
        for tag in (*DOCKERFILES, OBJECT_STORE_IMAGE):
            loading.load(paths=own, tag=tag, report=_reporter(timings))
    kubectl = Kubectl(program=own.state / "bin/kubectl", kubeconfig=own.kubeconfig)
    return _install(kubectl, timings, assets=made.result(), own_cluster=True)


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


def _build_programs(paths: Paths, timings: Timings) -> None:
    with timings.part("cluster programs"):
        toolchain.build(paths=paths, report=_reporter(timings))


def _install_system_packages(timings: Timings) -> None:
    with timings.part("system packages"):
        if installed := system_packages.install():
            _reporter(timings)(f"installed {', '.join(installed)}")


def _cluster_up(paths: Paths, timings: Timings, *, after: Sequence[Future[Any]]) -> None:
    for part in after:
        part.result()
    with timings.part("cluster"):
        program = toolchain.programs(paths)["versitygw"]
        images.build_static(paths=paths, tag=OBJECT_STORE_IMAGE, program=program, report=_reporter(timings))
        lifecycle.up(paths=paths, report=_reporter(timings))


def _build_images(paths: Paths, timings: Timings, *, after: Future[None]) -> None:
    after.result()
    with timings.part("images"):
        report = _reporter(timings)
        images.build_base(paths=paths, report=report)
        for tag, (file, target) in DOCKERFILES.items():
            images.build(paths=paths, context=REPOSITORY, file=REPOSITORY / file, target=target, tag=tag, report=report)


def _assets(paths: Paths, timings: Timings, *, after: Future[None]) -> Path:
    """The folder with model and rows. The trainer's image makes them, so that its 5 GB need not be here twice."""

    def convert(packages: Path, target: Path) -> None:
        script, model = demo_assets.CONVERTER, packages / demo_assets.GGUF
        command = ["env", f"PYTHONPATH={packages}", "python", script, model, target]
        images.run_program(TRAINER_IMAGE, command, folders=[script.parent, packages.parent], paths=paths)

    after.result()
    with timings.part("model and rows"):
        return demo_assets.ensure_demo_assets(convert).model.parent


def _assets_without_images(report: Report) -> Path:
    """The same, made by the trainer's environment where the images are not built here."""
    folder = demo_assets.assets_folder()
    if not folder.is_dir():
        report("the trainer's Python packages make them (5.4 GB; minutes when they are not there yet)")
        run(["make", "venv-trainer"], cwd=REPOSITORY)
        run([TRAINER_PYTHON, "-m", "tests.support.demo_assets"], cwd=REPOSITORY)
    return folder


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
