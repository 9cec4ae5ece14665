"""The real Argo CD brings operator, class and runs from git, and starts nothing twice.

The samples of manifests/argocd are applied as they are, with this machine's repository and images put in.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.runs import SCRIPTED_CLASS, Tenant, ready_reason
from tests.cluster.settings import Paths
from tests.demo.environment import MANIFESTS, Environment
from tests.demo.kubectl import Kubectl
from tests.demo.live import is_true
from tests.install import argocd
from tests.install.argocd import ArgoCD, standing
from tests.install.repository import PLATFORM, SAMPLE, TEAMS, TENANTS, Repository

CLUSTERS = "clusters.git"
MANY = 10
"""Teams that come with one commit."""
POLICIES = {
    body["metadata"]["name"] for body in yaml.safe_load_all((MANIFESTS / "network/tenant/policies.yaml").read_text())
}

Body = dict[str, Any]


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    return argocd.programs(Paths.from_environment())


@pytest.fixture
def argo(bare: Kubectl, programs: dict[str, Path], tmp_path: Path) -> Iterator[ArgoCD]:
    with argocd.running(bare, folder=tmp_path, programs=programs) as argo:
        yield argo


@pytest.fixture
def repository(argo: ArgoCD) -> Repository:
    repository = Repository(folder=argo.repositories / CLUSTERS)
    repository.create()
    return repository


@pytest.fixture
def team(argo: ArgoCD, environment: Environment) -> Iterator[Tenant]:
    """A tenant whose namespace has a name that the sample's AppProject allows."""
    team = Tenant(kubectl=argo.kubectl, namespace=f"team-{uuid.uuid4().hex[:8]}")
    team.create(environment.account)
    yield team
    team.delete()


@pytest.fixture
def many(bare: Kubectl) -> Iterator[list[Tenant]]:
    """Tenants that git brings. Tests name it before argo, so that Argo CD ends first and brings none of them again."""
    teams = [Tenant(kubectl=bare, namespace=f"team-{uuid.uuid4().hex[:8]}") for _ in range(MANY)]
    yield teams
    names = [team.namespace for team in teams]
    bare("delete", "namespace", *names, "--ignore-not-found", "--wait=false")


def sample(argo: ArgoCD, name: str) -> Body:
    """A sample of manifests/argocd that reads the test's repository."""
    text = (MANIFESTS / "argocd" / name).read_text()
    assert SAMPLE in text
    return yaml.safe_load(text.replace(SAMPLE, argo.url(CLUSTERS)))


def trainings(tenant: Tenant, name: str) -> Any:
    """What would change if anything were trained again."""
    run = tenant.run(name)
    kept = ("attempts", "artifact", "completionTime", "runDigest")
    return run["metadata"]["uid"], run["metadata"]["generation"], [run["status"][field] for field in kept]


def wait_until(argo: ArgoCD, name: str, *, health: str, what: str) -> Body:
    """Wait until the Application is synced and of that health."""
    return argo.wait(name, lambda app: standing(app) == ("Synced", health), what, seconds=120)


def operation_start(app: Body | None) -> str:
    """When the newest sync began."""
    assert app is not None
    return app["status"]["operationState"]["startedAt"]


def assert_nothing_healed(argo: ArgoCD, name: str) -> Body:
    """From its first step to its end nothing that operator or API server write of a run is taken for a difference."""
    training = wait_until(argo, name, health="Progressing", what="a run that trains")
    done = wait_until(argo, name, health="Healthy", what="the end of the run")
    assert operation_start(training) == operation_start(done)
    assert {resource["status"] for resource in done["status"]["resources"]} == {"Synced"}
    return done


def test_an_application_brings_operator_class_and_run(argo: ArgoCD, repository: Repository, tenant: Tenant) -> None:
    run = PLATFORM / "run.yaml"
    repository.write(run, tenant.body("run", "short"))
    repository.offer_with_platform("run.yaml")
    revision = repository.commit("Bring operator, class and run")
    argo.kubectl.apply(sample(argo, "application.yaml"))

    app = assert_nothing_healed(argo, "lora-operator")
    assert app["status"]["sync"]["revision"] == revision
    before = trainings(tenant, "run")

    for _ in range(3):
        argo.refresh("lora-operator")
        argo.sync("lora-operator")
    synced = operation_start(argo.application("lora-operator"))
    argo.stop(argocd.CONTROLLER)
    argo.start(argocd.CONTROLLER)
    tenant.kubectl("-n", tenant.namespace, "delete", "job", "run-train-1")
    argo.refresh("lora-operator")
    tenant.play("next", "ok")  # nobody's but the tenant's: Argo CD leaves it alone
    tenant.wait_for("next", "Ready")  # the operator has had its turn with both
    app = wait_until(argo, "lora-operator", health="Healthy", what="peace")
    assert operation_start(app) == synced, "something was healed"
    assert trainings(tenant, "run") == before
    assert tenant.jobs("run", stage="train") == []

    config_map = tenant.config_map_name("run")
    repository.remove(run)
    repository.offer_with_platform()
    revision = repository.commit("End the run")
    argo.refresh("lora-operator")
    argo.wait("lora-operator", lambda app: app["status"]["sync"].get("revision") == revision, "the commit", seconds=60)
    gone = ("wait", "--for=delete", "--timeout=60s")
    tenant.kubectl("-n", tenant.namespace, *gone, "lorafinetune/run", "job/run-prepare-1", f"configmap/{config_map}")
    assert tenant.run("next")["metadata"]["name"] == "next"
    assert argo.kubectl.get("lorafinetuneclass", SCRIPTED_CLASS)


def test_an_application_set_brings_the_runs_of_every_team(argo: ArgoCD, repository: Repository, team: Tenant) -> None:
    run = team.body("run", "short")
    del run["metadata"]["namespace"]  # that of the team's folder
    repository.write(TEAMS / team.namespace / "run.yaml", run)
    repository.commit("Bring operator, class, and a team's run")
    argo.kubectl.apply(sample(argo, "application.yaml"))
    wait_until(argo, "lora-operator", health="Healthy", what="operator and class")
    argo.kubectl.apply(sample(argo, "project.yaml"))
    argo.kubectl.apply(sample(argo, "applicationset.yaml"))
    app = f"lora-{team.namespace}"
    assert_nothing_healed(argo, app)

    children = ("job/run-prepare-1", "job/run-train-1", f"configmap/{team.config_map_name('run')}")
    repository.remove(TEAMS / team.namespace)
    repository.commit("Let the team go")
    argo.regenerate("lora-teams")
    gone = ("wait", "--for=delete", "--timeout=90s")
    argo.kubectl("-n", argocd.NAMESPACE, *gone, f"application/{app}")
    argo.kubectl("-n", team.namespace, *gone, "lorafinetune/run", *children)
    assert argo.kubectl.get("namespace", team.namespace)["status"]["phase"] == "Active"

    foreign = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "not-a-run"}}
    repository.write(TEAMS / team.namespace / "foreign.yaml", foreign)
    repository.commit("Try to bring something else")
    argo.regenerate("lora-teams")
    argo.wait(app, refused_a_config_map, "a refusal", seconds=60)
    assert argo.kubectl.find("-n", team.namespace, "configmap", "not-a-run") is None


def refused_a_config_map(app: Body) -> bool:
    """Whether the newest sync says so; between two tries it says nothing of what it refused."""
    said = str(app.get("status", {}).get("operationState"))
    return "not permitted" in said and "ConfigMap" in said


def test_ten_teams_come_with_one_commit(
    many: list[Tenant], argo: ArgoCD, repository: Repository, environment: Environment
) -> None:
    """Ten namespaces with everything that a tenant has, and a run in each. One gets its keys, and trains."""
    repository.commit("Bring operator and class")
    argo.kubectl.apply(sample(argo, "application.yaml"))
    wait_until(argo, "lora-operator", health="Healthy", what="operator and class")
    for name in ("tenants-project.yaml", "project.yaml", "tenants-applicationset.yaml", "applicationset.yaml"):
        argo.kubectl.apply(sample(argo, name))

    first, *others = many
    for team in many:
        repository.add_tenant(team.namespace)
        run = team.body("run", "short")
        run["spec"]["suspend"] = team is not first
        repository.write(TEAMS / team.namespace / "run.yaml", run)
    repository.commit("Let ten teams in")
    for name in ("lora-teams", "lora-tenants"):  # the teams' runs before their namespaces
        argo.regenerate(name)

    for team in many:
        wait_until(argo, f"tenant-{team.namespace}", health="Healthy", what="a tenant")
        assert_furnished(team)
    supply_keys(first, environment)
    for team in others:
        wait_until(argo, f"lora-{team.namespace}", health="Suspended", what="a run that waits")
        run = team.run("run")
        assert is_true(run, "Accepted")
        assert ready_reason(run) == "SuspendedByUser"

    first.wait_for("run", "Ready")
    wait_until(argo, f"lora-{first.namespace}", health="Healthy", what="the end of the run")
    (used,) = first.kubectl.get("-n", first.namespace, "resourcequotas")["items"]
    assert set(used["status"]["used"]) == set(used["spec"]["hard"]), "the quota counts"

    let_go(argo, repository, first)
    assert_furnished(others[0])


def assert_furnished(team: Tenant) -> None:
    """The namespace has what manifests/tenant has, for the group of its name."""
    kubectl, name = team.kubectl, team.namespace
    namespace = kubectl.get("namespace", name)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    binding = kubectl.get("-n", name, "rolebinding", "lora-users")
    assert binding["roleRef"]["name"] == "lora-operator-user"
    assert [subject["name"] for subject in binding["subjects"]] == [name]
    assert "requests.nvidia.com/gpu" in kubectl.get("-n", name, "resourcequota", "lora-share")["spec"]["hard"]
    policies = kubectl.get("-n", name, "networkpolicies")["items"]
    assert {policy["metadata"]["name"] for policy in policies} == POLICIES


def supply_keys(team: Tenant, environment: Environment) -> None:
    """The Secret that the class names, as an operator for secrets would bring it."""
    team.kubectl.apply(environment.account.as_secret(team.namespace))


def let_go(argo: ArgoCD, repository: Repository, team: Tenant) -> None:
    """Without its folders a team has no rights and no runs; its namespace stays, with its Secret."""
    repository.remove(TENANTS / team.namespace)
    repository.remove(TEAMS / team.namespace)
    repository.commit("Let a team go")
    for name in ("lora-teams", "lora-tenants"):
        argo.regenerate(name)
    gone = ("wait", "--for=delete", "--timeout=90s")
    apps = (f"application/lora-{team.namespace}", f"application/tenant-{team.namespace}")
    argo.kubectl("-n", argocd.NAMESPACE, *gone, *apps)
    for kind, name in (("lorafinetune", "run"), ("rolebinding", "lora-users"), ("resourcequota", "lora-share")):
        assert argo.kubectl.find("-n", team.namespace, kind, name) is None
    assert argo.kubectl.get("namespace", team.namespace)["status"]["phase"] == "Active"
    assert argo.kubectl.find("-n", team.namespace, "secret", "lora-storage")
