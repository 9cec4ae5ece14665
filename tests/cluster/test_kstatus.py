"""Our kstatus says what the original says, of every kind of status that a run may have."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.cluster import toolchain
from tests.cluster.commands import run
from tests.cluster.runs import Tenant
from tests.cluster.settings import Paths
from tests.demo.environment import MANIFESTS
from tests.kstatus import kstatus

TESTDATA = sorted((MANIFESTS / "argocd/settings/resource_customizations").rglob("testdata/*.yaml"))


def original(*bodies: dict) -> list[str]:
    """What sigs.k8s.io/cli-utils says of the objects."""
    program = toolchain.build(paths=Paths.from_environment(), report=print, modules=[toolchain.KSTATUS])["kstatus"]
    return run([program], stdin=json.dumps(bodies)).split()


@pytest.mark.parametrize("file", TESTDATA, ids=lambda file: file.stem)
def test_ours_is_the_same(file) -> None:
    body = yaml.safe_load(file.read_text())
    assert original(body) == [kstatus(body)]


def test_a_run_that_no_operator_has_seen_is_not_taken_for_done(tenant: Tenant) -> None:
    """The API server gives it a status; kubectl has it back before any operator can have answered."""
    body = json.dumps(tenant.body("run", "ok", suspend=True))
    created = json.loads(tenant.kubectl("create", "-f", "-", "-o", "json", stdin=body))
    assert original(created) == ["InProgress"]
    assert kstatus(created) == "InProgress"
