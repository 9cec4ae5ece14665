"""A run's life on the real cluster: suspended, evicted, deleted in every state, finished for good; operator killed."""

from __future__ import annotations

import json

import pytest

from tests.cluster.runs import Tenant, ready_message, ready_reason
from tests.demo.environment import OPERATOR_NAMESPACE
from tests.demo.kubectl import KubectlError
from tests.kstatus import breaches


@pytest.fixture
def scripted(scripted_class: str, tenant: Tenant) -> Tenant:
    """A tenant that may use the scripted class."""
    assert scripted_class == "scripted"
    return tenant


def test_suspend_stops_after_a_checkpoint_and_resume_goes_on(scripted: Tenant) -> None:
    scripted.play("run", "until-stopped")
    scripted.wait_for_reason("run", "Training")
    scripted.patch("run", suspend=True)
    run = scripted.wait_for("run", "Suspended")
    assert breaches(run["status"]) == []
    assert scripted.pods("run", stage="train") == []
    scripted.patch("run", suspend=False)
    run = scripted.wait_for("run", "Complete")
    reasons = [attempt["reason"] for attempt in run["status"]["attempts"]]
    assert reasons == ["Succeeded", "SuspendedByUser", "Succeeded"]


def test_suspended_from_the_start_makes_no_pod(scripted: Tenant) -> None:
    scripted.play("run", "ok", suspend=True)
    assert breaches(scripted.wait_for("run", "Suspended")["status"]) == []
    assert scripted.jobs("run") == []


def test_evicted_pod_is_replaced_at_no_cost(scripted: Tenant) -> None:
    scripted.play("run", "short", retryLimit=0)
    scripted.wait_for_reason("run", "Training")
    pod = scripted.pods("run", stage="train")[0]["metadata"]["name"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": scripted.namespace},
    }
    path = f"/api/v1/namespaces/{scripted.namespace}/pods/{pod}/eviction"
    scripted.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    run = scripted.wait_for("run", "Complete", seconds=120)
    assert [attempt["stage"] for attempt in run["status"]["attempts"]] == ["prepare", "train"]
    assert len(scripted.jobs("run", stage="train")) == 1


def test_job_deleted_by_hand_is_started_again(scripted: Tenant) -> None:
    scripted.play("run", "until-stopped")
    scripted.wait_for_reason("run", "Training")
    scripted.kubectl("-n", scripted.namespace, "delete", "job", "run-train-1", "--wait=false")
    run = scripted.wait_for("run", "Complete", seconds=90)
    assert [a["reason"] for a in run["status"]["attempts"]] == ["Succeeded", "JobDeleted", "Succeeded"]


def test_terminal_is_terminal(scripted: Tenant) -> None:
    scripted.play("run", "ok")
    scripted.wait_for("run", "Complete")
    before = scripted.run("run")
    scripted.kubectl("-n", scripted.namespace, "delete", "jobs", "--all", "--wait=true")
    scripted.patch("run", retryLimit=5)
    scripted.kubectl(
        "-n", OPERATOR_NAMESPACE, "delete", "pod", "-l", "app.kubernetes.io/name=lora-operator", "--wait=true"
    )
    scripted.kubectl("-n", OPERATOR_NAMESPACE, "rollout", "status", "deployment/lora-operator", "--timeout=60s")
    scripted.play("next", "ok")
    scripted.wait_for("next", "Complete")  # the operator has had its turn with both
    assert scripted.jobs("run") == []
    assert scripted.run("run")["status"] == before["status"]


def test_children_go_after_the_ttl_and_status_stays(scripted: Tenant) -> None:
    scripted.play("run", "ok", ttlSecondsAfterFinished=3)
    scripted.wait_for("run", "Complete")
    scripted.kubectl.wait_for("children are gone", lambda: not scripted.jobs("run"), seconds=30)
    assert scripted.kubectl.find("-n", scripted.namespace, "configmap", "run-run") is None
    assert ready_reason(scripted.run("run")) == "AdapterPublished"


def test_deadline_ends_the_run(scripted: Tenant) -> None:
    scripted.play("run", "until-stopped", activeDeadlineSeconds=60)
    run = scripted.wait_for("run", "Failed", seconds=120)
    assert breaches(run["status"]) == []
    assert ready_reason(run) == "DeadlineExceeded"
    scripted.kubectl.wait_for("the pod is gone", lambda: not scripted.pods("run", stage="train"), seconds=45)


def test_operator_killed_in_mid_run_changes_nothing(scripted: Tenant) -> None:
    scripted.play("run", "short")
    scripted.wait_for_reason("run", "Training")
    delete = ("delete", "pod", "-l", "app.kubernetes.io/name=lora-operator", "--grace-period=0", "--force")
    scripted.kubectl("-n", OPERATOR_NAMESPACE, *delete)
    run = scripted.wait_for("run", "Complete", seconds=90)
    assert [a["reason"] for a in run["status"]["attempts"]] == ["Succeeded", "Succeeded"]
    assert len(scripted.jobs("run")) == 2


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("slow-prepare", "Preparing"),
        ("until-stopped", "Training"),
        ("ok", "AdapterPublished"),
        ("diverged", "Diverged"),
    ],
)
def test_deletion_in_every_state(scripted: Tenant, scenario: str, reason: str) -> None:
    scripted.play("run", scenario)
    scripted.wait_for_reason("run", reason)
    scripted.kubectl("-n", scripted.namespace, "delete", "lorafinetune", "run", "--timeout=60s")
    scripted.kubectl.wait_for(
        "children are gone", lambda: not (scripted.jobs("run") or scripted.pods("run")), seconds=60
    )
    assert scripted.kubectl.find("-n", scripted.namespace, "configmap", "run-run") is None


def test_deletion_needs_no_operator(scripted: Tenant) -> None:
    scripted.play("run", "until-stopped")
    scripted.wait_for_reason("run", "Training")
    scale = ("-n", OPERATOR_NAMESPACE, "scale", "deployment/lora-operator")
    scripted.kubectl(*scale, "--replicas=0")
    try:
        scripted.kubectl("-n", scripted.namespace, "delete", "lorafinetune", "run", "--timeout=60s")
        scripted.kubectl.wait_for("pods are gone", lambda: not scripted.pods("run"), seconds=60)
    finally:
        scripted.kubectl(*scale, "--replicas=1")
        scripted.kubectl("-n", OPERATOR_NAMESPACE, "rollout", "status", "deployment/lora-operator", "--timeout=60s")


def test_a_started_run_cannot_be_edited(scripted: Tenant) -> None:
    scripted.play("run", "until-stopped")
    scripted.wait_for_reason("run", "Training")
    with pytest.raises(KubectlError, match=r"spec\.training cannot change: a LoraFineTune is one run"):
        scripted.patch("run", training={"maxSteps": 5})


def test_second_run_with_the_same_output_waits_for_the_first(scripted: Tenant) -> None:
    output = {"uri": f"s3://lora/{scripted.namespace}/shared"}
    scripted.play("first", "until-stopped", output=output)
    scripted.wait_for_reason("first", "Training")
    scripted.play("second", "ok", output=output)
    run = scripted.wait_for_reason("second", "OutputInUse")
    assert breaches(run["status"]) == []
    assert f"{scripted.namespace}/first" in ready_message(run)
    assert scripted.jobs("second") == []
    scripted.kubectl("-n", scripted.namespace, "delete", "lorafinetune", "first")
    scripted.wait_for("second", "Complete")


def test_class_that_comes_late_is_found(scripted: Tenant) -> None:
    scripted.play("run", "ok", class_name=f"late-{scripted.namespace}")
    run = scripted.wait_for_reason("run", "ClassNotFound")
    assert breaches(run["status"]) == []
    assert "Classes offered:" in ready_message(run)
    body = scripted.kubectl.get("lorafinetuneclass", "scripted")
    late = {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": {"name": f"late-{scripted.namespace}"}}
    scripted.kubectl.apply(late | {"spec": body["spec"]})
    try:
        scripted.wait_for("run", "Complete")
    finally:
        scripted.kubectl("delete", "lorafinetuneclass", f"late-{scripted.namespace}")
