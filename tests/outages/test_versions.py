"""A cluster with live runs moves to the next version of the API, whether CRDs or operator come first."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lora_operator.generate.crds import class_crd, run_crd
from lora_operator.naming import CLASS_PLURAL, DEPRECATED_VERSIONS, GROUP, RUN_PLURAL, VERSION

from tests.cluster.runs import SCRIPTED_CLASS, Tenant, is_true, ready_reason
from tests.cluster.settings import Paths
from tests.demo.environment import MANIFESTS, OPERATOR_NAMESPACE, REPOSITORY
from tests.demo.kubectl import PATIENCE, Kubectl
from tests.documents import commands, execute
from tests.outages.etcd import stored

OLDER = DEPRECATED_VERSIONS[-1]
MIGRATION = commands((REPOSITORY / "docs/tasks/upgrade.md").read_text())["Migrate what is stored"]
OPERATOR = "lora-operator"
AN_OLDER_OPERATOR = (
    "import runpy, lora_operator.naming as naming; "
    f"naming.VERSION, naming.API_VERSION = '{OLDER}', '{GROUP}/{OLDER}'; "
    "runpy.run_module('lora_operator', run_name='__main__')"
)
"""The program of the image, which speaks the older version."""


def serve(kubectl: Kubectl, *versions: str, storage: str) -> None:
    """Have the API server serve runs and classes in these versions."""
    for crd in (run_crd(), class_crd()):
        for version in crd["spec"]["versions"]:
            version |= {"served": version["name"] in versions, "storage": version["name"] == storage}
        kubectl.rest.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}", crd)
    for version in (VERSION, OLDER):
        served = version in versions
        kubectl.wait_for(
            f"{version} is {'served' if served else 'gone'}",
            lambda version=version, served=served: (listed(kubectl, version) is not None) == served,
        )


def listed(kubectl: Kubectl, version: str) -> dict[str, Any] | None:
    return kubectl.rest.get(f"/apis/{GROUP}/{version}/{RUN_PLURAL}", limit="1")


def run_program(kubectl: Kubectl, *command: str) -> None:
    """Have new operators started with this command, in place of that of their image."""
    container = {"name": "operator", "command": list(command) or None}
    body = {"spec": {"template": {"spec": {"containers": [container]}}}}
    path = f"/apis/apps/v1/namespaces/{OPERATOR_NAMESPACE}/deployments/{OPERATOR}"
    status, answer = kubectl.rest.request("PATCH", path, body=body, content="application/strategic-merge-patch+json")
    assert status == 200, answer


@pytest.fixture
def before_the_move(tenant: Tenant) -> Iterator[None]:
    """The cluster as an older release left it; afterwards it is again as this one has it."""
    kubectl = tenant.kubectl
    # An outage may have left runs in a namespace that is gone. Nobody can write these.
    kubectl("delete", "lorafinetunes", "--all", "--all-namespaces")
    try:
        run_program(kubectl, "python", "-c", AN_OLDER_OPERATOR)
        kubectl.wait_for_rollout(OPERATOR_NAMESPACE, OPERATOR)
        serve(kubectl, OLDER, storage=OLDER)
        migrate(kubectl, OLDER)
        yield
    finally:
        kubectl.apply_crds("--force-conflicts", "-k", MANIFESTS / "crd")
        run_program(kubectl)
        kubectl.wait_for_rollout(OPERATOR_NAMESPACE, OPERATOR)


def migrate(kubectl: Kubectl, version: str) -> None:
    """Run the documented commands, with a kubectl that has not yet heard which versions there are."""
    program, _, kubeconfig = kubectl.command
    path = f"{Path(program).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as cache:
        environment = {"KUBECONFIG": kubeconfig, "KUBECACHEDIR": cache, "PATH": path, "NEWEST": version}
        execute(MIGRATION, folder=REPOSITORY, environment=environment)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("before_the_move")
@pytest.mark.parametrize("first", ["CRDs", "operator"])
def test_a_cluster_with_live_runs_moves_to_the_next_version(tenant: Tenant, first: str) -> None:
    kubectl, paths = tenant.kubectl, Paths.from_environment()

    def path(name: str) -> str:
        return f"/apis/{GROUP}/{OLDER}/namespaces/{tenant.namespace}/{RUN_PLURAL}/{name}"

    def wait_for(name: str, reached: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        kubectl.wait_for(what, lambda: reached(kubectl.rest.get(path(name)) or {}), seconds=PATIENCE)
        return kubectl.rest.get(path(name)) or {}

    for name, scenario, suspend in (("live", "long", False), ("paused", "ok", True)):
        body = tenant.body(name, scenario, suspend=suspend) | {"apiVersion": f"{GROUP}/{OLDER}"}
        kubectl.rest.apply(path(name), body)
    wait_for("live", lambda run: ready_reason(run) == "Training", "the older operator trains")
    wait_for("paused", lambda run: is_true(run, "Suspended"), "the older operator leaves the other one alone")
    assert stored(paths, RUN_PLURAL, tenant.namespace, "live")["apiVersion"] == f"{GROUP}/{OLDER}"

    moves = [lambda: serve(kubectl, OLDER, VERSION, storage=VERSION), lambda: run_program(kubectl)]
    for move in moves if first == "CRDs" else reversed(moves):
        move()
    kubectl.wait_for_rollout(OPERATOR_NAMESPACE, OPERATOR)

    kubectl.rest.apply(path("paused"), tenant.body("paused", "ok", suspend=False) | {"apiVersion": f"{GROUP}/{OLDER}"})
    for name in ("live", "paused"):
        run = wait_for(name, lambda run: is_true(run, "Ready"), f"{name} ends well")
        stages = [(attempt["stage"], attempt["reason"]) for attempt in run["status"]["attempts"]]
        assert stages == [("prepare", "Succeeded"), ("train", "Succeeded")]
        assert len(tenant.jobs(name)) == 2
        assert run["spec"] == tenant.run(name)["spec"], "both versions show the same"

    migrate(kubectl, VERSION)
    for names in ((RUN_PLURAL, tenant.namespace, "live"), (CLASS_PLURAL, SCRIPTED_CLASS)):
        assert stored(paths, *names)["apiVersion"] == f"{GROUP}/{VERSION}"
    serve(kubectl, VERSION, storage=VERSION)
    tenant.play("later", "ok")
    tenant.wait_for("later", "Ready")
