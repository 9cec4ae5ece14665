"""A run's life on the real cluster: suspended, evicted, deleted in every state, finished for good; operator killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster.runs import SCRIPTED_CLASS, Tenant, ready_message, ready_reason
from tests.demo.environment import OPERATOR_NAMESPACE
from tests.demo.kubectl import KubectlError


@dataclass(frozen=True, kw_only=True)
class State:
    """A state of a run, and how it gets there."""

    scenario: str = "ok"
    class_name: str = SCRIPTED_CLASS
    spec: dict[str, Any] = field(default_factory=dict)
    reason: str = "Training"
    """Of Ready, that is waited for."""
    then: tuple[Callable[[Tenant], None], str] | None = None
    """What is done then, and the reason that is waited for after it."""

    def reach(self, tenant: Tenant) -> None:
        """Have the run `run` in this state."""
        tenant.play("run", self.scenario, class_name=self.class_name, **self.spec)
        tenant.wait_for_reason("run", self.reason)
        if self.then:
            act, reason = self.then
            act(tenant)
            tenant.wait_for_reason("run", reason)


def test_suspend_stops_after_a_checkpoint_and_resume_goes_on(tenant: Tenant) -> None:
    tenant.play("run", "until-stopped")
    tenant.wait_for_reason("run", "Training")
    tenant.patch("run", suspend=True)
    run = tenant.wait_for("run", "Suspended")
    assert tenant.pods("run", stage="train") == []
    tenant.patch("run", suspend=False)
    run = tenant.wait_for("run", "Ready")
    reasons = [attempt["reason"] for attempt in run["status"]["attempts"]]
    assert reasons == ["Succeeded", "SuspendedByUser", "Succeeded"]


def test_suspended_from_the_start_makes_no_pod(tenant: Tenant) -> None:
    tenant.play("run", "ok", suspend=True)
    tenant.wait_for("run", "Suspended")
    assert tenant.jobs("run") == []


def test_evicted_pod_is_replaced_at_no_cost(tenant: Tenant) -> None:
    tenant.play("run", "long", retryLimit=0)  # a pod that has succeeded meanwhile is evicted as well
    tenant.wait_for_reason("run", "Training")
    tenant.evict(tenant.pods("run", stage="train")[0])
    run = tenant.wait_for("run", "Ready")
    assert [attempt["stage"] for attempt in run["status"]["attempts"]] == ["prepare", "train"]
    assert len(tenant.jobs("run", stage="train")) == 1


def test_the_config_map_deleted_by_hand_is_made_again_for_the_next_pod(tenant: Tenant) -> None:
    tenant.play("run", "storage-once")
    # While a pod is there its kubelet holds the ConfigMap, and may give it to one that follows at once.
    tenant.wait_for_reason("run", "BackingOff")
    before = tenant.config_map("run")
    tenant.kubectl("-n", tenant.namespace, "delete", "configmap", tenant.config_map_name("run"))
    tenant.wait_for("run", "Ready")
    after = tenant.config_map("run")
    assert before
    assert after
    assert after["data"] == before["data"]
    assert len(tenant.jobs("run", stage="train")) == 2


def test_job_deleted_by_hand_is_started_again(tenant: Tenant) -> None:
    tenant.play("run", "until-stopped")
    tenant.wait_for_reason("run", "Training")
    tenant.kubectl("-n", tenant.namespace, "delete", "job", "run-train-1", "--wait=false")
    run = tenant.wait_for("run", "Ready")
    assert [a["reason"] for a in run["status"]["attempts"]] == ["Succeeded", "JobDeleted", "Succeeded"]


def test_terminal_is_terminal(tenant: Tenant) -> None:
    tenant.play("run", "ok")
    tenant.wait_for("run", "Ready")
    before = tenant.run("run")
    tenant.kubectl("-n", tenant.namespace, "delete", "jobs", "--all", "--wait=true")
    tenant.patch("run", retryLimit=5)
    tenant.kubectl(
        "-n", OPERATOR_NAMESPACE, "delete", "pod", "-l", "app.kubernetes.io/name=lora-operator", "--wait=true"
    )
    tenant.kubectl.wait_for_rollout(OPERATOR_NAMESPACE, "lora-operator")
    tenant.play("next", "ok")
    tenant.wait_for("next", "Ready")  # the operator has had its turn with both
    assert tenant.jobs("run") == []
    for name in ("attempts", "artifact", "completionTime", "runDigest"):
        assert tenant.run("run")["status"][name] == before["status"][name]


def test_children_go_after_the_ttl_and_status_stays(tenant: Tenant) -> None:
    tenant.play("run", "ok", jobRetentionSeconds=3)
    tenant.wait_for("run", "Ready")
    tenant.kubectl.wait_for("children are gone", lambda: not tenant.jobs("run"))
    assert tenant.config_map("run") is None
    assert ready_reason(tenant.run("run")) == "AdapterPublished"


def test_deadline_ends_the_run(tenant: Tenant) -> None:
    tenant.play("run", "until-stopped", maxRuntimeSeconds=60)
    run = tenant.wait_for("run", "Finished")
    assert ready_reason(run) == "DeadlineExceeded"
    tenant.kubectl.wait_for("the pod is gone", lambda: not tenant.pods("run", stage="train"))


def test_operator_killed_in_mid_run_changes_nothing(tenant: Tenant) -> None:
    tenant.play("run", "short")
    tenant.wait_for_reason("run", "Training")
    delete = ("delete", "pod", "-l", "app.kubernetes.io/name=lora-operator", "--grace-period=0", "--force")
    tenant.kubectl("-n", OPERATOR_NAMESPACE, *delete)
    run = tenant.wait_for("run", "Ready")
    assert [a["reason"] for a in run["status"]["attempts"]] == ["Succeeded", "Succeeded"]
    assert len(tenant.jobs("run")) == 2


@pytest.mark.parametrize(("how", "seconds"), [(("--wait=false",), 5), (("--grace-period=0", "--force"), 20)])
def test_the_second_operator_takes_over(tenant: Tenant, how: tuple[str, ...], seconds: float) -> None:
    operators = ("-n", OPERATOR_NAMESPACE)
    tenant.play("run", "short")
    tenant.wait_for_reason("run", "Training")
    try:
        tenant.kubectl(*operators, "scale", "deployment/lora-operator", "--replicas=2")
        tenant.kubectl.wait_for_rollout(OPERATOR_NAMESPACE, "lora-operator")
        before = _leader(tenant)
        tenant.kubectl(*operators, "delete", "pod", before, *how)
        tenant.kubectl.wait_for("another one leads", lambda: _leader(tenant) not in ("", before), seconds=seconds)
        run = tenant.wait_for("run", "Ready")
        assert [a["reason"] for a in run["status"]["attempts"]] == ["Succeeded", "Succeeded"]
    finally:
        tenant.kubectl(*operators, "scale", "deployment/lora-operator", "--replicas=1")


def _leader(tenant: Tenant) -> str:
    """Name of the pod that holds the Lease."""
    lease = tenant.kubectl.get("-n", OPERATOR_NAMESPACE, "lease", "lora-operator")
    return lease["spec"].get("holderIdentity", "").partition("_")[0]


def suspend(tenant: Tenant) -> None:
    """The user suspends the run."""
    tenant.patch("run", suspend=True)


def hold(tenant: Tenant) -> None:
    """A queue takes the Job back."""
    patch = ("patch", "job", "run-train-1", "--type=merge", "-p", json.dumps({"spec": {"suspend": True}}))
    tenant.kubectl("-n", tenant.namespace, *patch)


STATES: dict[str, State] = {
    "before it is accepted": State(class_name="nobody-has-it", reason="ClassNotFound"),
    "preparing": State(scenario="slow-prepare", reason="Preparing"),
    "suspended before it began": State(spec={"suspend": True}, reason="SuspendedByUser"),
    "suspended": State(scenario="until-stopped", then=(suspend, "SuspendedByUser")),
    "stopping": State(scenario="deaf", then=(suspend, "Stopping")),
    "queued": State(scenario="deaf", then=(hold, "Queued")),
    "training": State(scenario="until-stopped"),
    "between attempts": State(scenario="storage-always", reason="BackingOff"),
    "complete": State(reason="AdapterPublished"),
    "failed": State(scenario="diverged", reason="Diverged"),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_deletion_in_every_state(tenant: Tenant, state: State) -> None:
    state.reach(tenant)
    tenant.kubectl("-n", tenant.namespace, "delete", "lorafinetune", "run", "--timeout=60s")
    assert_nothing_is_left(tenant)


def test_deletion_needs_no_operator(tenant: Tenant) -> None:
    tenant.play("run", "until-stopped")
    tenant.wait_for_reason("run", "Training")
    scale = ("-n", OPERATOR_NAMESPACE, "scale", "deployment/lora-operator")
    tenant.kubectl(*scale, "--replicas=0")
    try:
        tenant.kubectl("-n", tenant.namespace, "delete", "lorafinetune", "run", "--timeout=60s")
        assert_nothing_is_left(tenant)
    finally:
        tenant.kubectl(*scale, "--replicas=1")
        tenant.kubectl.wait_for_rollout(OPERATOR_NAMESPACE, "lora-operator")


def assert_nothing_is_left(tenant: Tenant) -> None:
    """No child of the run is there any more, or will come back."""

    def left() -> bool:
        return bool(tenant.jobs("run") or tenant.pods("run") or tenant.config_map("run"))

    tenant.kubectl.wait_for("children are gone", lambda: not left())
    time.sleep(1)
    assert not left()


def test_a_started_run_cannot_be_edited(tenant: Tenant) -> None:
    tenant.play("run", "until-stopped")
    tenant.wait_for_reason("run", "Training")
    with pytest.raises(KubectlError, match=r"spec\.training cannot change: a LoraFineTune is one run"):
        tenant.patch("run", training={"maxSteps": 5})


def test_second_run_with_the_same_output_waits_for_the_first(tenant: Tenant) -> None:
    output = {"uri": f"s3://lora/{tenant.namespace}/shared"}
    tenant.play("first", "until-stopped", output=output)
    tenant.wait_for_reason("first", "Training")
    tenant.play("second", "ok", output=output)
    run = tenant.wait_for_reason("second", "OutputInUse")
    assert "is also the output of LoraFineTune first" in ready_message(run)
    assert tenant.jobs("second") == []
    tenant.kubectl("-n", tenant.namespace, "delete", "lorafinetune", "first")
    tenant.wait_for("second", "Ready")


def test_class_that_comes_late_is_found(tenant: Tenant) -> None:
    tenant.play("run", "ok", class_name=tenant.namespace)
    run = tenant.wait_for_reason("run", "ClassNotFound")
    assert "Existing classes:" in ready_message(run)
    with tenant.own_class():
        tenant.wait_for("run", "Ready")
