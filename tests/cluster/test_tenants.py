"""Two tenants on one cluster, each with a bucket of its own: what neither can do to the other, or to the platform."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.refusals import first_refusal, refusal_of
from tests.cluster.runs import DEMO_CLASS, Tenant, make_class, ready_message, ready_reason
from tests.demo import object_store
from tests.demo.environment import MANIFESTS, OPERATOR_NAMESPACE, Environment
from tests.demo.object_store import Account
from tests.support.tiny_model import write_tiny_model

PERMISSIONS = Path(__file__).parent / "permissions"
STRICT, OPEN = "tenants", "tenants-open"
"""Classes with and without allow-lists; both keep their work in the tenant's own bucket."""
OWN_PREFIXES = {"allowed": {"datasets": ["s3://{namespace}/*"], "outputs": ["s3://{namespace}/*"]}}
ROW = json.dumps({"text": "The quick brown fox jumps over the lazy dog. " * 8})


@dataclass(frozen=True, kw_only=True)
class Team:
    """A tenant with a bucket of the same name as its namespace, a person who may edit the namespace, and a user."""

    tenant: Tenant
    account: Account

    @property
    def name(self) -> str:
        return self.tenant.namespace

    @property
    def person(self) -> str:
        return f"person-of-{self.name}"

    @property
    def user(self) -> str:
        """A person with the role that manifests/tenant gives, and no other."""
        return f"user-of-{self.name}"

    def as_person(self, *arguments: object, stdin: str | None = None) -> str:
        """kubectl as the person."""
        return self.tenant.kubectl(*arguments, "--as", self.person, stdin=stdin)

    def run(self, name: str, *, class_name: str = STRICT, **spec: Any) -> dict[str, Any]:
        """A run of the team as it applies it."""
        return {
            "apiVersion": "lora-operator.io/v1beta1",
            "kind": "LoraFineTune",
            "metadata": {"name": name, "namespace": self.name},
            "spec": {
                "className": class_name,
                "model": {"name": f"s3://{self.name}/tiny"},
                "dataset": {"uri": f"s3://{self.name}/rows.jsonl"},
                "output": {"uri": f"s3://{self.name}/{name}"},
            }
            | spec,
        }

    def apply(self, name: str, **fields: Any) -> None:
        """Apply a run as the person. Raises KubectlError."""
        self.as_person("apply", "-f", "-", stdin=json.dumps(self.run(name, **fields)))


def make_team(environment: Environment, folder: Path) -> Team:
    """Namespace, bucket with a model and rows, keys that open it and no other, a person and a user."""
    tenant = Tenant.fresh(environment.kubectl)
    name = tenant.namespace
    tenant.create(Account(access=name, secret=secrets.token_hex(20)))
    account = object_store.ensure_account(environment.kubectl, namespace=name, bucket=name)
    team = Team(tenant=tenant, account=account)
    bind = ("-n", name, "create", "rolebinding")
    tenant.kubectl(*bind, "person", "--clusterrole=edit", f"--user={team.person}")
    tenant.kubectl(*bind, "user", "--clusterrole=lora-operator-user", f"--user={team.user}")
    with object_store.bucket(environment.kubectl, account, name=name) as store:
        store.put("rows.jsonl", f"{ROW}\n".encode() * 4)
        object_store.upload_folder(store, write_tiny_model(folder / name), "tiny")
    return team


@pytest.fixture(scope="module")
def teams(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Team, Team]]:
    """Two teams and their classes."""
    own_work = {"workUri": "s3://{namespace}/work"}
    make_class(environment.kubectl, STRICT, like=DEMO_CLASS, storage=own_work, **OWN_PREFIXES)
    make_class(environment.kubectl, OPEN, like=DEMO_CLASS, storage=own_work)
    folder = tmp_path_factory.mktemp("models")
    first, second = make_team(environment, folder), make_team(environment, folder)
    first_refusal(lambda: refusal_of(lambda: first.apply("probe", output={"uri": "s3://elsewhere/x"}, suspend=True)))
    yield first, second
    for team in (first, second):
        team.tenant.delete()
    environment.kubectl("delete", "lorafinetuneclass", STRICT, OPEN)


# --- data ---------------------------------------------------------------------------------------------------------


def test_anothers_prefix_is_refused_at_apply(teams: tuple[Team, Team]) -> None:
    mine, others = teams
    for fields in (
        {"dataset": {"uri": f"s3://{others.name}/rows.jsonl"}},
        {"evaluation": {"dataset": {"uri": f"s3://{others.name}/rows.jsonl"}}},
        {"output": {"uri": f"s3://{others.name}/out"}},
    ):
        said = refusal_of(lambda fields=fields: mine.apply("run", **fields))
        assert f"is not allowed by LoraFineTuneClass {STRICT}" in said
        assert f"s3://{mine.name}/*" in said


@pytest.mark.parametrize("field", ["model", "dataset", "output"])
def test_the_store_refuses_what_a_class_allows(teams: tuple[Team, Team], field: str) -> None:
    mine, others = teams
    address = {"model": {"name": f"s3://{others.name}/tiny"}, "dataset": {"uri": f"s3://{others.name}/rows.jsonl"}}
    address |= {"output": {"uri": f"s3://{others.name}/out"}}
    mine.apply(f"others-{field}", class_name=OPEN, **{field: address[field]})
    run = mine.tenant.wait_for(f"others-{field}", "Finished")
    assert ready_reason(run) == "StorageDenied"
    assert others.name in ready_message(run)


# --- objects of the cluster ---------------------------------------------------------------------------------------

REACHING_OUT = {
    "Secret of a model": {"huggingFace": {"tokenSecretRef": {"name": "hub", "namespace": "other"}}},
    "key of a signature": {
        "output": {"uri": "s3://abc/x", "signing": {"keySecretRef": {"name": "k", "namespace": "other"}}}
    },
    "image": {"image": "registry.example/mine"},
    "volumes": {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]},
    "pod": {"pod": {"volumes": []}},
    "service account": {"serviceAccountName": "admin"},
    "node": {"resources": {"nodeName": "lora-node"}},
}


@pytest.mark.parametrize("spec", REACHING_OUT.values(), ids=REACHING_OUT)
def test_a_run_has_no_field_to_reach_out_with(teams: tuple[Team, Team], spec: dict[str, Any]) -> None:
    assert "unknown field" in refusal_of(lambda: teams[0].apply("run", **spec))


def test_not_even_a_class_mounts_folders_of_the_node(environment: Environment) -> None:
    volume = {"name": "root", "mountPath": "/host", "hostPath": {"path": "/"}}
    said = refusal_of(lambda: make_class(environment.kubectl, "host-path", like=DEMO_CLASS, pod={"volumes": [volume]}))
    assert "unknown field" in said
    assert "hostPath" in said


RIGHTS = [
    # verb, resource, namespace, with the role edit, with the role lora-operator-user
    ("create", "lorafinetunes", "own", True, True),
    ("patch", "lorafinetunes", "own", True, True),
    ("delete", "lorafinetunes", "own", True, True),
    ("list", "events", "own", True, True),
    ("list", "pods", "own", True, True),
    ("get", "pods --subresource=log", "own", True, True),
    ("get", "resourcequotas", "own", True, True),
    ("get", "secrets", "own", True, False),
    ("create", "secrets", "own", True, False),
    ("create", "pods", "own", True, False),
    ("create", "pods --subresource=exec", "own", True, False),
    ("create", "jobs", "own", True, False),
    ("delete", "configmaps", "own", True, False),
    ("get", "configmaps", "own", True, False),
    ("delete", "resourcequotas", "own", False, False),
    ("delete", "networkpolicies", "own", True, False),
    ("create", "lorafinetunes", "other", False, False),
    ("get", "lorafinetunes", "other", False, False),
    ("get", "pods --subresource=log", "other", False, False),
    ("get", "secrets", "other", False, False),
    ("patch", "lorafinetunes --subresource=status", "own", False, False),
    ("create", "lorafinetuneclasses", "own", False, False),
    ("patch", "lorafinetuneclasses", "own", False, False),
    ("update", "validatingadmissionpolicies", "own", False, False),
]


def may(team: Team, who: str, verb: str, resource: str, namespace: str) -> bool:
    """What the API server says."""
    question = ("auth", "can-i", verb, *resource.split(), "-n", namespace, "--quiet", "--as", who)
    return refusal_of(lambda: team.tenant.kubectl(*question)) == ""


@pytest.mark.parametrize(("verb", "resource", "where", "edit", "user"), RIGHTS)
def test_what_the_roles_of_a_namespace_include(
    teams: tuple[Team, Team], verb: str, resource: str, where: str, edit: bool, user: bool
) -> None:
    mine, others = teams
    namespace = mine.name if where == "own" else others.name
    assert may(mine, mine.person, verb, resource, namespace) == edit
    assert may(mine, mine.user, verb, resource, namespace) == user


def test_a_user_runs_and_reads_how_it_went(teams: tuple[Team, Team]) -> None:
    """What a team does by the pages, with the narrow role."""
    team, _ = teams

    def as_user(*arguments: object, stdin: str | None = None) -> str:
        return team.tenant.kubectl("-n", team.name, *arguments, "--as", team.user, stdin=stdin)

    as_user("apply", "-f", "-", stdin=json.dumps(team.tenant.body("of-a-user", "ok")))
    as_user("wait", "--for=condition=Ready", "lft/of-a-user", "--timeout=120s")
    team.tenant.told("of-a-user", until="AdapterPublished")
    assert "AdapterPublished" in as_user("describe", "lft", "of-a-user")
    assert "AdapterPublished" in as_user("events", "--for", "lorafinetune/of-a-user")
    as_user("logs", "--selector", "lora-operator.io/run=of-a-user", "--tail=5")
    as_user("delete", "lft", "of-a-user")


def test_class_viewers_list_classes(teams: tuple[Team, Team]) -> None:
    """The role of manifests/class-viewers, bound to one user: for all it would change what other tests look at."""
    team, _ = teams
    kubectl = team.tenant.kubectl
    listing = ("get", "lorafinetuneclasses", "--as")
    for who in (team.person, team.user):
        assert "forbidden" in refusal_of(lambda who=who: kubectl(*listing, who)), "a RoleBinding shows no classes"
    binding = ("clusterrolebinding", f"class-viewer-{team.name}")
    kubectl("create", *binding, "--clusterrole=lora-operator-class-viewer", f"--user={team.user}")
    try:
        kubectl.wait_for("the binding counts", lambda: not refusal_of(lambda: kubectl(*listing, team.user)))
        assert STRICT in kubectl(*listing, team.user)
        deleted = refusal_of(lambda: kubectl("delete", "lorafinetuneclass", STRICT, "--as", team.user))
        assert "forbidden" in deleted
    finally:
        kubectl("delete", *binding)


def test_nobody_but_the_operator_writes_status(teams: tuple[Team, Team]) -> None:
    mine, _ = teams
    mine.apply("forged", suspend=True)
    forged = json.dumps({"status": {"conditions": []}})
    patch = ("-n", mine.name, "patch", "lorafinetune", "forged", "--type=merge", "-p", forged)
    assert "forbidden" in refusal_of(lambda: mine.as_person(*patch, "--subresource=status"))
    mine.tenant.wait_for("forged", "Suspended")
    mine.as_person(*patch)
    assert mine.tenant.run("forged")["status"]["conditions"], "status is no part of what a person writes"


# --- pods ---------------------------------------------------------------------------------------------------------

ASK_THE_API = """
import json, os, ssl, urllib.error, urllib.request
address = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
for path in ("/api/v1/secrets", "/apis/lora-operator.io/v1beta1/lorafinetunes", "/api/v1/pods"):
    try:
        answer = urllib.request.urlopen(address + path, context=ssl._create_unverified_context(), timeout=20)
        print(path, answer.status)
    except urllib.error.HTTPError as error:
        print(path, error.code)
"""


def test_a_trainer_is_nobody_to_the_api_server(teams: tuple[Team, Team]) -> None:
    """The pod can reach it, as nothing enforces network policies here, and gets nothing."""
    tenant = teams[0].tenant
    tenant.play("nobody", "until-stopped")
    tenant.wait_for_reason("nobody", "Training")
    pod = tenant.pods("nobody", stage="train")[0]
    answers = tenant.kubectl("-n", tenant.namespace, "exec", pod["metadata"]["name"], "--", "python", "-c", ASK_THE_API)
    codes = [line.split()[1] for line in answers.splitlines()]
    assert len(codes) == 3
    assert set(codes) <= {"401", "403"}
    tenant.patch("nobody", suspend=True)


def test_one_tenant_s_quota_is_not_another_s(teams: tuple[Team, Team]) -> None:
    full, free = teams
    metadata = {"name": "full", "namespace": full.name}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": "0"}}}
    full.tenant.kubectl.apply(quota)
    full.tenant.play("waits", "ok")
    free.tenant.play("runs", "ok")
    full.tenant.wait_for_reason("waits", "QuotaExceeded")
    free.tenant.wait_for("runs", "Ready")
    full.tenant.kubectl("-n", full.name, "delete", "resourcequota", "full")
    full.tenant.wait_for("waits", "Ready")


@pytest.mark.parametrize("folder", ["operator", "tenant"])
def test_the_api_server_accepts_the_network_policies(teams: tuple[Team, Team], folder: str) -> None:
    namespace = OPERATOR_NAMESPACE if folder == "operator" else teams[0].name
    path = MANIFESTS / "network" / folder
    said = teams[0].tenant.kubectl("apply", "--dry-run=server", "--namespace", namespace, "-k", path)
    assert said.count("networkpolicy.networking.k8s.io/") >= 2


# --- accounts -----------------------------------------------------------------------------------------------------

ACCOUNTS = {
    "operator": (f"system:serviceaccount:{OPERATOR_NAMESPACE}:lora-operator", OPERATOR_NAMESPACE),
    "operator-in-a-tenants-namespace": (f"system:serviceaccount:{OPERATOR_NAMESPACE}:lora-operator", "team-a"),
    "trainer": ("system:serviceaccount:team-a:default", "team-a"),
    "user": ("member", "team-a"),
}
GROUPS = {"user": "team-a"}
"""The group that manifests/demo/tenant lets in."""


@pytest.mark.parametrize("name", ACCOUNTS)
def test_what_an_account_may_do_is_as_it_was(
    environment: Environment, name: str, request: pytest.FixtureRequest
) -> None:
    """`kubectl auth can-i --list`; a pod of a run does not even hold the token of its account."""
    account, namespace = ACCOUNTS[name]
    identity = ["--as", account, *([f"--as-group={GROUPS[name]}"] if name in GROUPS else [])]
    header, *lines = environment.kubectl("auth", "can-i", "--list", *identity, "-n", namespace).splitlines()
    listed = "\n".join([" ".join(header.split()), *sorted(" ".join(line.split()) for line in lines)]) + "\n"
    path = PERMISSIONS / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        path.write_text(listed)
    assert path.read_text() == listed, "look at the difference; if it is meant, run pytest --update-golden"
