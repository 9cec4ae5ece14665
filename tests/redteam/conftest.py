"""The cluster of tests/cluster, an attacker for each role, and another team whose runs must end all the while."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.cluster.conftest import environment, pytest_sessionstart
from tests.cluster.refusals import first_refusal
from tests.cluster.runs import SCRIPTED_CLASS, Body, Tenant, make_class
from tests.demo.environment import OPERATOR_NAMESPACE, Environment
from tests.demo.kubectl import PATIENCE, Kubectl
from tests.redteam.attacker import Attacker, Role, grant

__all__ = ["environment", "pytest_sessionstart"]

ALLOWED = {
    "models": ["s3://lora/models/*", "pvc://models/*"],
    "datasets": ["s3://{namespace}/*", "s3://lora/scripted/*", "configmap://*", "pvc://rows/*"],
    "outputs": ["s3://{namespace}/*"],
}


@dataclass(kw_only=True)
class OtherTeam:
    """A team that does nothing but train: one run after the other."""

    tenant: Tenant
    ended: list[Body] = field(default_factory=list)
    """Its runs, in order."""
    slowest: float = 0.0
    """Seconds from the apply of a run to its end."""
    problem: str | None = None
    """Why a run did not end as it should."""
    _done: threading.Event = field(default_factory=threading.Event)

    def train(self) -> None:
        """Train one run after the other until `stop`."""
        while not self._done.is_set() and self.problem is None:
            name, begun = f"run-{len(self.ended)}", time.monotonic()
            try:
                self.tenant.play(name, "ok")
                self.ended.append(self.tenant.wait_for(name, "Ready", seconds=PATIENCE))
            except Exception as problem:
                self.problem = repr(problem)
            self.slowest = max(self.slowest, time.monotonic() - begun)

    def wait_for_its_next_run(self) -> None:
        """Return when one more run has ended as it should. Raises AssertionError."""
        before = len(self.ended)
        self.tenant.kubectl.wait_for("the next run ends", lambda: len(self.ended) > before or self.problem)
        assert self.problem is None, self.problem

    def stop(self) -> None:
        """Let the run that is under way end."""
        self._done.set()


@pytest.fixture(scope="module")
def classes(environment: Environment, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a class that allows a team its own bucket only."""
    name = f"redteam-{request.module.__name__.rpartition('_')[2]}"
    make_class(environment.kubectl, name, like=SCRIPTED_CLASS, allowed=ALLOWED)
    yield name
    environment.kubectl("delete", "lorafinetuneclass", name)


@pytest.fixture(scope="module")
def other(environment: Environment) -> Iterator[OtherTeam]:
    """The other team, at work while the tests of a file run. Raises AssertionError where that disturbed it."""
    tenant = Tenant.fresh(environment.kubectl)
    tenant.create(environment.account)
    before = restarts(environment.kubectl)
    team = OtherTeam(tenant=tenant)
    thread = threading.Thread(target=team.train)
    thread.start()
    yield team
    team.stop()
    thread.join()
    tenant.delete()
    assert team.problem is None, f"a run of the other team did not end: {team.problem}"
    assert team.ended, "the other team trained nothing"
    assert restarts(environment.kubectl) == before, "the operator was started again"
    print(f"{len(team.ended)} runs of another team ended meanwhile, the slowest after {team.slowest:.0f} s")


@pytest.fixture(scope="module", params=list(Role), ids=[role.value for role in Role])
def attacker(
    environment: Environment, classes: str, other: OtherTeam, request: pytest.FixtureRequest
) -> Iterator[Attacker]:
    """A person with one of the roles. The other team is at work meanwhile."""
    del other
    tenant = Tenant.fresh(environment.kubectl)
    tenant.create(environment.account)
    person = Attacker(role=request.param, tenant=tenant, class_name=classes)
    grant(environment.kubectl, namespace=tenant.namespace, role=person.role, person=person.person)
    environment.kubectl.wait_for("the roles count", lambda: person.tries("get", "lorafinetunes") == "")
    beyond = person.run("probe", suspend=True, output={"uri": "s3://elsewhere/x"})
    first_refusal(lambda: person.tries_to_apply(beyond))
    yield person
    tenant.delete()


def restarts(kubectl: Kubectl) -> dict[str, int]:
    """How often each container of the operator was started again, by pod."""
    pods = kubectl.get("-n", OPERATOR_NAMESPACE, "pods", "--selector", "app.kubernetes.io/name=lora-operator")["items"]
    return {pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods}
