"""One path per exit-code class on the real cluster: what the operator makes of each ending of the scripted trainer."""

from __future__ import annotations

from tests.cluster.runs import Tenant, ready_message, ready_reason


def test_done(tenant: Tenant) -> None:
    tenant.play("run", "ok")
    run = tenant.wait_for("run", "Ready")
    assert ready_reason(run) == "AdapterPublished"
    assert [attempt["reason"] for attempt in run["status"]["attempts"]] == ["Succeeded", "Succeeded"]
    told = tenant.told("run", until="AdapterPublished")
    assert (told[0], told[-1]) == ("Preparing", "AdapterPublished")


def test_user_error_in_prepare_takes_no_accelerator(tenant: Tenant) -> None:
    tenant.play("run", "dataset-invalid")
    run = tenant.wait_for("run", "Finished")
    assert ready_reason(run) == "DatasetInvalid"
    assert "line 3 is not JSON" in ready_message(run)
    assert tenant.jobs("run", stage="train") == []


def test_user_error_in_training_is_never_retried(tenant: Tenant) -> None:
    tenant.play("run", "diverged")
    run = tenant.wait_for("run", "Finished")
    assert ready_reason(run) == "Diverged"
    assert len(tenant.jobs("run", stage="train")) == 1


def test_out_of_memory_is_retried_smaller_with_the_same_effective_batch(tenant: Tenant) -> None:
    tenant.play("run", "oom-twice")
    status = tenant.wait_for("run", "Ready")["status"]
    batches = [
        (entry["attempt"], entry["perDeviceTrainBatchSize"], entry["gradientAccumulationSteps"])
        for entry in status["adjustments"]
    ]
    assert batches == [(2, 2, 4), (3, 1, 8)]


def test_out_of_memory_with_one_row_gives_up(tenant: Tenant) -> None:
    tenant.play("run", "oom-always")
    run = tenant.wait_for("run", "Finished")
    assert ready_reason(run) == "OutOfMemory"
    assert "one row" in ready_message(run)
    assert len(tenant.jobs("run", stage="train")) == 3


def test_infrastructure_is_retried_after_a_pause(tenant: Tenant) -> None:
    tenant.play("run", "storage-once")
    run = tenant.wait_for_reason("run", "BackingOff")
    assert "The object store does not answer." in ready_message(run)
    run = tenant.wait_for("run", "Ready")
    assert [a["reason"] for a in run["status"]["attempts"]] == ["Succeeded", "StorageUnavailable", "Succeeded"]


def test_infrastructure_gives_up_at_the_retry_limit(tenant: Tenant) -> None:
    tenant.play("run", "storage-always", retryLimit=0)
    run = tenant.wait_for("run", "Finished")
    assert ready_reason(run) == "StorageUnavailable"
    assert "retryLimit" in ready_message(run)


def test_bug_is_retried_once_and_reported_as_one(tenant: Tenant) -> None:
    tenant.play("run", "bug")
    run = tenant.wait_for("run", "Finished")
    assert ready_reason(run) == "InternalError"
    assert "and this was the second" in ready_message(run)
    assert len(tenant.jobs("run", stage="train")) == 2


def test_death_without_a_last_word_is_infrastructure(tenant: Tenant) -> None:
    tenant.play("run", "die-once")
    run = tenant.wait_for("run", "Ready")
    assert [a["reason"] for a in run["status"]["attempts"] if a["stage"] == "train"] == ["Killed", "Succeeded"]


def test_a_trainer_that_hangs_is_ended_by_the_kubelet(tenant: Tenant) -> None:
    with tenant.own_class(livenessTimeoutSeconds=30) as hasty:
        tenant.play("run", "hang-once", class_name=hasty)
        run = tenant.wait_for("run", "Ready")
    hung, _ = (attempt for attempt in run["status"]["attempts"] if attempt["stage"] == "train")
    assert (hung["reason"], hung["exitClass"], hung["exitCode"]) == ("Killed", "Infrastructure", 137)
    assert "stopped answering the liveness probe" in hung["message"]


def test_host_memory_is_named(tenant: Tenant) -> None:
    tenant.play("run", "hog")
    run = tenant.wait_for("run", "Finished")
    assert ready_reason(run) == "OutOfHostMemory"
    assert "host memory" in ready_message(run)


def test_well_ended_without_a_result_is_a_bug(tenant: Tenant) -> None:
    tenant.play("run", "silent")
    run = tenant.wait_for("run", "Finished")
    assert ready_reason(run) == "OutcomeMissing"
