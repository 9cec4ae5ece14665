"""The commands of the guides for platform and product teams, as they stand there, on the real cluster."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from lora_operator.naming import CLASS_PLURAL, GROUP, RUN_PLURAL, VERSION

from tests.cluster.runs import SCRIPTED_CLASS, Tenant, ready_reason, scripted_class
from tests.cluster.settings import NODE_NAME
from tests.demo.environment import MANIFESTS, OPERATOR_IMAGE, OPERATOR_NAMESPACE, REPOSITORY, Environment
from tests.demo.kubectl import Kubectl
from tests.documents import FOLLOWED, commands, execute

GUIDES = [commands((REPOSITORY / page).read_text()) for page in FOLLOWED]
GUIDE = {title: block for guide in GUIDES for title, block in guide.items()}
"""The commands below each heading of all of them."""
MEMBERS = "people-of-documents"
"""The group whose members work in the team's namespace, and can do nothing else."""
TRANSIENT = {"events", "events.events.k8s.io", "leases.coordination.k8s.io", "endpointslices.discovery.k8s.io", "pods"}
"""What comes and goes in a cluster that nobody touches."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Somebody who does what the documents say, in a folder that has the manifests."""

    folder: Path
    environment: dict[str, str]
    done: set[str] = field(default_factory=set)
    """Headings."""

    def follow(self, title: str, **environment: str) -> str:
        """Run the commands below a heading and return what they print."""
        self.done.add(title)
        return execute(GUIDE[title], folder=self.folder, environment=self.environment | environment)

    def annotate_operator(self, name: str) -> None:
        """Have the kustomization set an annotation, which makes new pods as every upgrade does."""
        file = self.folder / "lora-operator/kustomization.yaml"
        patch = [{"op": "add", "path": f"/spec/template/metadata/annotations/{name}", "value": "yes"}]
        patches = [{"target": {"kind": "Deployment"}, "patch": yaml.safe_dump(patch)}]
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"patches": patches}))

    def change_class(self, **spec: object) -> None:
        """Change fields of the class in its file."""
        file = self.folder / "class.yaml"
        body = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump(body | {"spec": body["spec"] | spec}))


@pytest.fixture
def team(bare: Kubectl) -> Iterator[Tenant]:
    """A tenant that is yet to be let in."""
    team = Tenant(kubectl=bare, namespace="team-of-documents")
    bare("delete", "namespace", team.namespace, "--ignore-not-found")  # of a test that was interrupted
    yield team
    bare("delete", "namespace", team.namespace, "--ignore-not-found")


@pytest.fixture
def reader(bare: Kubectl, environment: Environment, team: Tenant, tmp_path: Path) -> Reader:
    """The folder has what the documents have people write: a class and a run that trains until it is stopped."""
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    (tmp_path / "class.yaml").write_text(yaml.safe_dump(scripted_class()))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(team.body("run", "until-stopped")))
    variables = {
        "CLASS": SCRIPTED_CLASS,
        "FAILED": "failed",
        "GROUP": MEMBERS,
        "KEY": environment.account.secret,
        "KEY_ID": environment.account.access,
        "KUBECONFIG": str(bare.kubeconfig),
        "NODE": NODE_NAME,
        "OPERATOR_IMAGE": OPERATOR_IMAGE,
        "PATH": f"{Path(bare.program).parent}:{os.environ['PATH']}",
        "RUN": "run",
        "TEAM": team.namespace,
    }
    return Reader(folder=tmp_path, environment=variables)


@pytest.fixture
def member(bare: Kubectl, tmp_path: Path) -> str:
    """A kubeconfig of a member of the team."""
    config = yaml.safe_load(bare.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] |= {"as": "member", "as-groups": [MEMBERS]}
    file = tmp_path / "member.yaml"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def everything(kubectl: Kubectl) -> set[str]:
    """Kind, namespace and name of all objects of the cluster."""
    kinds = set(kubectl("api-resources", "--verbs=list", "-o", "name").split()) - TRANSIENT
    columns = "custom-columns=:.kind,:.metadata.namespace,:.metadata.name"
    listing = kubectl("get", ",".join(sorted(kinds)), "--all-namespaces", "-o", columns)
    return {" ".join(line.split()) for line in listing.splitlines() if line.strip()}


def attempts(team: Tenant) -> list[tuple[str, str | None]]:
    return [(attempt["stage"], attempt.get("reason")) for attempt in team.run("run")["status"]["attempts"]]


def train_pod(team: Tenant) -> str:
    """The uid of the run's one train pod, which is alive."""
    (pod,) = team.pods("run", stage="train")
    assert pod["status"]["phase"] == "Running"
    return pod["metadata"]["uid"]


def let_in(reader: Reader, member: str, team: Tenant) -> None:
    """From a bare cluster to a team that trains."""
    reader.follow("Install the operator")
    assert SCRIPTED_CLASS in reader.follow("Apply the class")
    reader.follow("Create the namespace, the role and the Secret")
    assert "lorafinetune.lora-operator.io/run created" in reader.follow("Apply the run", KUBECONFIG=member)
    team.wait_for_reason("run", "Training")


def look(reader: Reader, team: Tenant) -> None:
    """The state of things, and of a run that fails."""
    team.play("failed", "diverged")
    seen = reader.follow("Look around")
    assert f'lora_operator_runs{{namespace="{team.namespace}",reason="Training"}} 1.0' in seen
    team.kubectl("-n", team.namespace, "wait", "--for=condition=Finished", "lft/failed", "--timeout=60s")
    team.told("failed", until="Diverged")
    read = reader.follow("Read a failed run")
    assert read.count("The loss is not a number at step 3.") >= 3, "in the message, the attempts and the Events"


def change_what_runs_do_not_notice(reader: Reader, team: Tenant) -> None:
    """Class, pod template and processes of the operator change while a pod trains."""
    reader.change_class(terminationGracePeriodSeconds=31)
    assert '"terminationGracePeriodSeconds":30' in reader.follow("Change a class").replace(" ", "")
    assert team.kubectl.get("lorafinetuneclass", SCRIPTED_CLASS)["spec"]["terminationGracePeriodSeconds"] == 31
    reader.annotate_operator("newer")
    assert "newer" in reader.follow("Upgrade the operator")
    operators = team.kubectl.get("-n", OPERATOR_NAMESPACE, "pods")["items"]
    living = [operator["metadata"] for operator in operators if "deletionTimestamp" not in operator["metadata"]]
    assert [metadata["annotations"].get("newer") for metadata in living] == ["yes", "yes"]
    reader.follow("Restart the operator")
    assert reader.follow("Pause for maintenance").count("patched") == 2
    assert ready_reason(team.run("run")) == "Training"


def leave_and_come_back(reader: Reader, team: Tenant) -> None:
    """The operator goes and comes, and finds the run as it was."""
    reader.follow("Migrate what is stored", NEWEST=VERSION)
    for plural in (RUN_PLURAL, CLASS_PLURAL):
        assert team.kubectl.get("crd", f"{plural}.{GROUP}")["status"]["storedVersions"] == [VERSION]
    reader.follow("Remove the operator and keep the runs")
    assert team.kubectl.find("namespace", OPERATOR_NAMESPACE) is None
    assert ready_reason(team.run("run")) == "Training"
    reader.follow("Install the operator")


def test_headings_of_guides_are_unique() -> None:
    assert len(GUIDE) == sum(len(guide) for guide in GUIDES)


def test_self_service_takes_four_commands() -> None:
    without_files = re.sub(
        r"<<END\n.*?^END$", "", GUIDE["Create the namespace, the role and the Secret"], flags=re.DOTALL | re.MULTILINE
    )
    assert len(without_files.splitlines()) == 4


def test_from_installation_to_removal(bare: Kubectl, reader: Reader, member: str, team: Tenant) -> None:
    before = everything(bare)
    let_in(reader, member, team)
    pod = train_pod(team)
    look(reader, team)
    change_what_runs_do_not_notice(reader, team)
    leave_and_come_back(reader, team)
    assert train_pod(team) == pod

    reader.follow("Drain a node")
    team.wait_for_reason("run", "Training")
    reader.follow("Pause a run")
    team.wait_for("run", "Ready")
    assert attempts(team) == [("prepare", "Succeeded"), ("train", "SuspendedByUser"), ("train", "Succeeded")]

    reader.follow("Back up")
    bare("delete", "lorafinetunes,lorafinetuneclasses", "--all", "--all-namespaces")
    reader.follow("Restore")
    team.wait_for_reason("run", "Preparing", "Training")

    reader.follow("Remove the operator and all runs")
    assert reader.done == {*GUIDE}
    assert {line for line in everything(bare) - before if team.namespace not in line} == set()
    yours = {"Namespace", "Secret", "ServiceAccount", "ConfigMap", "RoleBinding", "NetworkPolicy", "ResourceQuota"}
    bare.wait_for(
        "only yours is left", lambda: {line.split()[0] for line in everything(bare) - before} == yours, seconds=60
    )
