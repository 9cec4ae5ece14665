"""Objects that claim to be the operator's: refused by the API server, or without effect on what the operator does."""

from __future__ import annotations

import json
import time

import pytest
from lora_operator import naming

from tests.cluster.runs import Body, Tenant, ready_reason
from tests.demo.kubectl import Kubectl
from tests.redteam.attacker import EVIL_IMAGE, Attacker, Role, a_job, a_pod, labels_of, owned_by
from tests.redteam.conftest import OtherTeam


def forged_config_map(run: Body, kubectl: Kubectl, *, class_name: str) -> Body:
    """The ConfigMap of a run that was resolved against a class of the attacker's own."""
    name, namespace = run["metadata"]["name"], run["metadata"]["namespace"]
    spec = kubectl.get("lorafinetuneclass", class_name)["spec"]
    spec |= {"image": EVIL_IMAGE, "limits": {"gpus": 16, "nodes": 16}, "defaults": {"queueName": "others"}}
    spec["pod"] = {"priorityClassName": "system-cluster-critical", "tolerations": [{"operator": "Exists"}]}
    identity = {"namespace": namespace, "name": name, "uid": run["metadata"]["uid"]}
    run_file = run["spec"] | {"identity": identity, "storage": {"workUri": "s3://lora/runs"}}
    run_file |= {"accelerator": {"kind": "cpu"}, "modelCache": False}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": naming.config_map_name(name, run["metadata"]["uid"]),
            "namespace": namespace,
            "labels": labels_of(run),
            "ownerReferences": owned_by(run),
        },
        "data": {"run.json": json.dumps(run_file), "className": class_name, "class.json": json.dumps(spec)},
    }


def expect_only_the_class_s_image(attacker: Attacker, name: str) -> None:
    """Wait until the run has ended or says what holds it up, and look at the images of its pods."""
    attacker.tenant.wait_for_reason(name, "AdapterPublished", "NameTaken", "PolicyViolation", "ConfigMapChanged")
    assert EVIL_IMAGE not in attacker.images()


def test_a_config_map_made_for_a_suspended_run_is_no_class(attacker: Attacker) -> None:
    run = attacker.starts("early", suspend=True)
    attacker.tenant.wait_for_reason("early", "SuspendedByUser")
    forged = forged_config_map(run, attacker.tenant.kubectl, class_name=attacker.class_name)
    assert attacker.tries_to_apply(forged) == ""
    attacker.tenant.patch("early", suspend=False)
    expect_only_the_class_s_image(attacker, "early")


def test_a_config_map_exchanged_under_a_run_is_no_class(attacker: Attacker) -> None:
    run = attacker.starts("late", "until-stopped")
    attacker.tenant.wait_for_reason("late", "Training")
    name = attacker.tenant.config_map_name("late")
    change = json.dumps({"data": {"className": "another"}})
    assert "immutable" in attacker.tries("patch", "configmap", name, "--type=merge", "-p", change)
    assert attacker.tries("delete", "configmap", name) == ""
    forged = forged_config_map(run, attacker.tenant.kubectl, class_name=attacker.class_name)
    assert attacker.tries_to_apply(forged) == ""
    attacker.tenant.patch("late", suspend=True)
    attacker.tenant.wait_for_reason("late", "SuspendedByUser", "NameTaken", "ConfigMapChanged")
    attacker.tenant.patch("late", suspend=False)
    expect_only_the_class_s_image(attacker, "late")


def test_a_config_map_of_somebody_else_stays(attacker: Attacker) -> None:
    attacker.starts("taken", suspend=True, jobRetentionSeconds=0)
    name = attacker.tenant.config_map_name("taken")
    metadata = {"name": name, "namespace": attacker.namespace}
    assert attacker.tries_to_apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}) == ""
    attacker.tenant.patch("taken", suspend=False)
    attacker.tenant.wait_for_reason("taken", "NameTaken")
    assert attacker.tries("delete", "lorafinetune", "taken") == ""
    attacker.tenant.kubectl("-n", attacker.namespace, "get", "configmap", name)  # the operator deletes what it owns


# --- children of another team's run ---------------------------------------------------------------------------------


@pytest.fixture
def victim(other: OtherTeam, attacker: Attacker) -> Body:
    """A run of the other team that trains and is then told to go on."""
    name = f"victim-of-{attacker.role}-{time.monotonic_ns()}"[: naming.MAX_RUN_NAME]
    other.tenant.play(name, "short")
    return other.tenant.run(name)


def expect_undisturbed(tenant: Tenant, victim: Body) -> None:
    """The victim's run ends after one attempt a stage, and nobody forged a word of its status."""
    ended = tenant.wait_for(victim["metadata"]["name"], "Ready")
    assert [(a["stage"], a["number"], a["reason"]) for a in ended["status"]["attempts"]] == [
        ("prepare", 1, "Succeeded"),
        ("train", 1, "Succeeded"),
    ]


ATTEMPTS = ("1", "7", "999999999999", "-1", "one")


def test_a_job_is_no_child_of_another_team_s_run(attacker: Attacker, other: OtherTeam, victim: Body) -> None:
    for number, attempt in enumerate(ATTEMPTS):
        labels = labels_of(victim, attempt=attempt)
        forged = a_job(attacker.namespace, f"job-{number}", labels=labels, owners=owned_by(victim))
        said = attacker.tries("create", "-f", "-", stdin=json.dumps(forged))
        # The API server itself refuses a label that is no label (-1).
        assert ("forbidden" in said) != attacker.writes_jobs, said
    expect_undisturbed(other.tenant, victim)


def test_a_pod_is_no_orphan_of_another_team_s_run(attacker: Attacker, other: OtherTeam, victim: Body) -> None:
    owner = owned_by(victim)[0] | {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "uid": "00000000-0000-0000-0000-000000000000",
    }
    pod = a_pod(attacker.namespace, "orphan", labels=labels_of(victim), owners=[owner])
    said = attacker.tries("create", "-f", "-", stdin=json.dumps(pod))
    assert ("forbidden" in said) != (attacker.role is Role.EDIT), said
    expect_undisturbed(other.tenant, victim)


# --- objects that nobody can read -----------------------------------------------------------------------------------

UNREADABLE = {
    "no uid": ({naming.MANAGED_BY_LABEL: naming.MANAGED_BY, naming.RUN_LABEL: "x"}, {}),
    "no run": ({naming.MANAGED_BY_LABEL: naming.MANAGED_BY, naming.RUN_UID_LABEL: "x"}, {}),
    "no labels but one": ({naming.MANAGED_BY_LABEL: naming.MANAGED_BY}, {}),
    "index that is no number": (
        {naming.MANAGED_BY_LABEL: naming.MANAGED_BY, naming.RUN_LABEL: "x", naming.RUN_UID_LABEL: "x"},
        {naming.INDEX_ANNOTATION: "first"},
    ),
}


def test_objects_that_nobody_can_read_stop_nobody(attacker: Attacker, other: OtherTeam) -> None:
    owner = [{"apiVersion": "batch/v1", "kind": "Job", "name": "x", "uid": "x", "controller": True}]
    for kind, (labels, notes) in UNREADABLE.items():
        name = kind.replace(" ", "-")
        pod = a_pod(attacker.namespace, name, labels=labels, owners=owner, annotations=notes)
        job = a_job(attacker.namespace, name, labels=labels, owners=[])
        said = [attacker.tries("create", "-f", "-", stdin=json.dumps(body)) for body in (pod, job)]
        refused = [attacker.role is not Role.EDIT, not attacker.writes_jobs]
        assert ["forbidden" in refusal for refusal in said] == refused, (kind, said)
    other.wait_for_its_next_run()


# --- words in the operator's name -----------------------------------------------------------------------------------


def test_status_is_not_the_user_s_to_write(attacker: Attacker) -> None:
    run = attacker.starts("status", suspend=True)
    ready = {"type": "Ready", "status": "True", "reason": "AdapterPublished", "message": "", "observedGeneration": 1}
    forged = {"status": {"conditions": [ready | {"lastTransitionTime": "2026-01-01T00:00:00Z"}]}}
    patch = ("patch", "lorafinetune", "status", "--type=merge", "-p", json.dumps(forged))
    assert "forbidden" in attacker.tries(*patch, "--subresource=status")
    attacker.tries(*patch)
    attacker.tries("replace", "-f", "-", stdin=json.dumps(run | forged))
    attacker.tenant.wait_for_reason("status", "SuspendedByUser")


def test_an_event_of_another_team_s_run_is_refused(attacker: Attacker, other: OtherTeam) -> None:
    involved = {"apiVersion": naming.API_VERSION, "kind": naming.RUN_KIND, "name": "run-0"}
    involved |= {"namespace": other.tenant.namespace}
    for namespace in (attacker.namespace, other.tenant.namespace):
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "forged-", "namespace": namespace},
            "involvedObject": involved,
            "reason": "AdapterPublished",
            "source": {"component": naming.FIELD_MANAGER},
        }
        assert attacker.tries("create", "-f", "-", stdin=json.dumps(event)) != ""


def test_a_run_that_claims_an_owner_or_a_finalizer_is_still_a_run(attacker: Attacker) -> None:
    body = attacker.run("odd")
    body["metadata"] |= {"finalizers": ["evil.example/never"], "labels": {naming.MANAGED_BY_LABEL: naming.MANAGED_BY}}
    assert attacker.tries_to_apply(body) == ""
    ended = attacker.tenant.wait_for("odd", "Finished")
    assert ready_reason(ended) == "AdapterPublished"
    assert attacker.tries("delete", "lorafinetune", "odd", "--wait=false") == ""
    unlock = json.dumps({"metadata": {"finalizers": None}})
    assert attacker.tries("patch", "lorafinetune", "odd", "--type=merge", "-p", unlock) == ""
