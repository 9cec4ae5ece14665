"""How a run fails, retries, stops and goes on, on the fake cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from lora_operator import naming
from lora_operator.naming import Stage
from lora_operator.workloads.resolved import digest_of
from lora_trainer.contract.exits import ExitCode

from tests import kstatus
from tests.builders import NAME, NAMESPACE, OUTPUT, class_body, failed_text
from tests.component.world import CRDS, Body, World, a_world, an_operator
from tests.fakes.faults import Fault
from tests.fakes.kubelet import Termination

PREPARE = f"{NAME}-prepare-1"


def train(attempt: int) -> str:
    return f"{NAME}-train-{attempt}"


async def test_a_user_error_ends_the_run_without_a_train_pod(world: World) -> None:
    world.apply()
    text = failed_text(ExitCode.DatasetInvalid, message="Line 7 is not JSON.", remedy="Mend line 7.")
    await world.end(Stage.PREPARE, code=ExitCode.DatasetInvalid, text=text)
    await world.until("DatasetInvalid")
    assert kstatus.kstatus(world.run()) == "Failed"
    assert world.condition("Finished")["message"].startswith("Line 7 is not JSON. Mend line 7.")
    await world.settle()
    assert world.created_jobs() == [PREPARE]


async def test_out_of_memory_shrinks_and_goes_on(world: World) -> None:
    world.apply()
    await world.prepare(micro_batch=4)
    await world.end(Stage.TRAIN, 1, code=ExitCode.OutOfMemory, text=failed_text(ExitCode.OutOfMemory))
    await world.end(Stage.TRAIN, 2, code=ExitCode.OutOfMemory, text=failed_text(ExitCode.OutOfMemory))
    pod = await world.pod(Stage.TRAIN, 3)
    assert pod["spec"]["containers"][0]["args"][-2:] == ["--oom-shrinks", "2"]
    await world.train(3)
    status = await world.until("AdapterPublished")
    batches = [(a["perDeviceTrainBatchSize"], a["gradientAccumulationSteps"]) for a in status["adjustments"]]
    assert batches == [(2, 2), (1, 4)]


async def test_a_passing_cause_is_retried_when_its_pause_is_over(world: World) -> None:
    world.apply(retryLimit=1)
    await world.prepare()
    await world.end(Stage.TRAIN, 1, code=ExitCode.StorageUnavailable, text=failed_text(ExitCode.StorageUnavailable))
    await world.until("BackingOff")
    assert world.jobs() == [PREPARE, train(1)]
    world.pass_time(11)
    await world.end(Stage.TRAIN, 2, code=ExitCode.StorageUnavailable, text=failed_text(ExitCode.StorageUnavailable))
    await world.until("StorageUnavailable")
    assert "spec.retryLimit allows 1" in world.condition("Finished")["message"]


async def test_a_drained_pod_is_replaced_by_the_job_controller(world: World) -> None:
    world.apply(retryLimit=0)
    await world.prepare()
    pod = await world.start(Stage.TRAIN)
    await world.until("Training")
    world.kubelet.on_sigterm = lambda _: Termination(exit_code=40, message=failed_text(ExitCode.Interrupted))
    world.kubelet.disrupt(pod)
    await world.train()
    await world.until("AdapterPublished")
    assert world.created_jobs() == [PREPARE, train(1)]


async def pod_that_stops(world: World) -> Body:
    """The train pod of a run that was just suspended; it hears SIGTERM and goes on until the test ends it."""
    world.kubelet.on_sigterm = lambda _: None
    pod = await world.begin_training()
    world.edit(suspend=True)
    await world.until("Stopping")
    return pod


async def test_suspend_stops_and_resume_goes_on(world: World) -> None:
    pod = await pod_that_stops(world)
    await world.settle()
    assert world.server.get("jobs", train(1), NAMESPACE)["metadata"]["deletionTimestamp"]
    world.kubelet.terminate(pod, exit_code=40, message=failed_text(ExitCode.Interrupted, step=30))
    await world.until("SuspendedByUser")
    assert world.server.objects("pods", NAMESPACE)[0]["metadata"]["labels"][naming.STAGE_LABEL] == "prepare"
    assert world.condition("Suspended")["status"] == "True"
    world.edit(suspend=False)
    await world.train(2)
    await world.until("AdapterPublished")
    assert world.created_jobs() == [PREPARE, train(1), train(2)]


async def test_resume_waits_for_the_pod_that_still_stops(world: World) -> None:
    pod = await pod_that_stops(world)
    world.edit(suspend=False)
    await world.settle()
    assert world.created_jobs() == [PREPARE, train(1)]
    world.kubelet.terminate(pod, exit_code=40, message=failed_text(ExitCode.Interrupted, step=30))
    await world.train(2)
    await world.until("AdapterPublished")


async def test_a_run_applied_suspended_waits_without_pods(world: World) -> None:
    world.apply(suspend=True)
    await world.until("SuspendedByUser")
    assert world.created_jobs() == []
    world.edit(suspend=False)
    await world.prepare()
    await world.until("Starting")


async def test_the_deadline_stops_the_pod(world: World) -> None:
    world.apply(maxRuntimeSeconds=60)
    await world.prepare()
    await world.start(Stage.TRAIN)
    await world.until("Training")
    world.pass_time(61)
    await world.until("DeadlineExceeded")
    await world.server.wait_for(lambda: world.jobs() == [PREPARE], what="the end of the train Job")


async def test_children_go_after_the_ttl_and_nothing_comes_back(world: World) -> None:
    world.apply(jobRetentionSeconds=60)
    await world.prepare()
    await world.train()
    await world.until("AdapterPublished")
    before = world.status()
    world.pass_time(61)
    await world.server.wait_for(lambda: world.jobs() == [], what="the end of the Jobs")
    await world.settle()
    assert world.server.find("configmaps", world.config_map(), NAMESPACE) is None
    world.poke()
    await world.settle()
    assert (world.jobs(), world.status()) == ([], before)
    assert world.created_jobs() == [PREPARE, train(1)]


async def test_jobs_deleted_by_hand_after_the_end_restart_nothing(world: World) -> None:
    world.apply()
    await world.prepare()
    await world.train()
    await world.until("AdapterPublished")
    for name in world.jobs():
        world.server.delete("jobs", name, NAMESPACE)
    world.server.delete("configmaps", world.config_map(), NAMESPACE)
    await world.settle()
    world.poke()
    await world.settle()
    assert world.created_jobs() == [PREPARE, train(1)]
    assert world.reason() == "AdapterPublished"


async def test_a_train_job_deleted_by_hand_is_replaced_after_a_pause(world: World) -> None:
    await world.begin_training()
    world.server.delete("jobs", train(1), NAMESPACE)
    await world.until("BackingOff")
    assert world.status()["attempts"][-1]["reason"] == "JobDeleted"
    world.pass_time(11)
    await world.train(2)
    await world.until("AdapterPublished")


async def test_a_train_pod_that_outlives_its_job_is_waited_for(world: World) -> None:
    world.kubelet.on_sigterm = lambda _: None
    pod = await world.begin_training()
    world.server.delete("jobs", train(1), NAMESPACE)
    await world.until("BackingOff")
    world.pass_time(11)
    await world.until("Stopping")
    assert world.created_jobs() == [PREPARE, train(1)]
    world.kubelet.terminate(pod, exit_code=40, message=failed_text(ExitCode.Interrupted, step=30))
    await world.train(2)
    await world.until("AdapterPublished")


HOLDS = [
    ("ErrImagePull", "registry.example/lora-trainer: denied", "ImagePullFailed"),
    ("CreateContainerConfigError", 'secret "bucket" not found', "SecretNotFound"),
    ("CreateContainerError", "no such device", "PodConfigInvalid"),
]


@pytest.mark.parametrize(("waiting", "message", "reason"), HOLDS, ids=[row[2] for row in HOLDS])
async def test_what_holds_the_prepare_pod_back_is_said_and_heals(
    world: World, waiting: str, message: str, reason: str
) -> None:
    world.apply()
    pod = await world.pod(Stage.PREPARE)
    world.kubelet.waiting(pod, reason=waiting, message=message)
    await world.until(reason)
    assert message in world.condition("Stalled")["message"]
    await world.prepare()
    await world.until("Starting")


async def test_a_missing_secret_is_named_also_where_the_kubelet_does_not_name_it(world: World) -> None:
    world.apply(huggingFace={"tokenSecretRef": {"name": "hub", "key": "token"}})
    pod = await world.pod(Stage.PREPARE)
    busy_node = "failed to sync secret cache: timed out waiting for the condition"
    world.kubelet.waiting(pod, reason="CreateContainerConfigError", message=busy_node)
    await world.until("SecretNotFound")
    needed = 'It needs "bucket" with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "hub" with token.'
    assert needed in world.condition("Stalled")["message"]


async def test_an_unschedulable_pod_is_said(world: World) -> None:
    world.apply()
    await world.prepare()
    pod = await world.pod(Stage.TRAIN)
    world.kubelet.unschedulable(pod, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    await world.until("Unschedulable")
    assert "Insufficient nvidia.com/gpu" in world.condition("Ready")["message"]
    assert kstatus.kstatus(world.run()) == "InProgress"


async def test_a_class_that_arrives_late_is_found(world: World) -> None:
    world.server.delete(naming.CLASS_PLURAL, "h100")
    await world.settle()
    world.apply()
    await world.until("ClassNotFound")
    assert kstatus.kstatus(world.run()) == "Failed"
    world.server.create(class_body("late"))
    await world.until("Preparing")
    assert world.status()["className"] == "late"


async def test_a_class_is_used_in_the_namespaces_that_it_is_offered_to(world: World) -> None:
    selector = {"matchExpressions": [{"key": "team", "operator": "In", "values": ["ml"]}]}
    world.server.create(class_body("chosen", default=False, namespaceSelector=selector))
    world.apply(className="chosen")
    await world.until("PolicyViolation")
    said = world.condition("Ready")["message"]
    assert f"LoraFineTuneClass chosen is not offered to namespace {NAMESPACE} (its spec.namespaceSelector)" in said
    world.server.patch("namespaces", NAMESPACE, merge={"metadata": {"labels": {"team": "ml"}}})
    world.server.patch(naming.RUN_PLURAL, NAME, NAMESPACE, merge={"spec": {"retryLimit": 2}})
    await world.until("Preparing")


async def test_of_two_runs_with_one_output_the_older_goes_first(world: World) -> None:
    world.apply("older")
    await world.until("Preparing", "older")
    world.apply("younger", output={"uri": f"{OUTPUT}/"})
    await world.until("OutputInUse", "younger")
    assert world.jobs("younger") == []
    await world.prepare(name="older")
    await world.train(name="older")
    await world.until("AdapterPublished", "older")
    await world.until("Preparing", "younger")


async def test_a_younger_run_goes_on_when_the_older_is_deleted(world: World) -> None:
    world.apply("older")
    await world.until("Preparing", "older")
    world.edit("older", suspend=True)
    await world.until("SuspendedByUser", "older")
    world.clock.advance(2)
    world.apply("younger", output={"uri": OUTPUT})
    await world.until("OutputInUse", "younger")
    world.server.delete(naming.RUN_PLURAL, "older", NAMESPACE)
    await world.until("Preparing", "younger")


async def test_a_name_that_something_else_holds_is_said_and_heals(world: World) -> None:
    world.apply(suspend=True)
    await world.until("SuspendedByUser")
    foreign = {"name": world.config_map(), "namespace": NAMESPACE}
    world.server.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": foreign})
    world.edit(suspend=False)
    await world.until("NameTaken")
    assert f"ConfigMap {world.config_map()} already exists" in world.condition("Stalled")["message"]
    assert world.created_jobs() == []
    world.server.delete("configmaps", world.config_map(), NAMESPACE)
    await world.until("Preparing")


@pytest.mark.parametrize("status", [403, 422])
async def test_a_job_that_the_api_server_refuses_is_said_and_heals(world: World, status: int) -> None:
    refusal = world.server.faults.add(Fault(verb="create", resource="jobs", status=status, count=None))
    world.apply()
    await world.until("ChildRefused")
    assert f"Job {PREPARE}" in world.condition("Stalled")["message"]
    assert world.created_jobs() == []
    world.server.faults.remove(refusal)
    await world.until("Preparing")


async def test_a_spec_that_cannot_be_read_is_said_so(tmp_path: Path, kubeconfig: Path) -> None:
    async with a_world(crds=crds_of_another_version(tmp_path)) as world, an_operator(world, kubeconfig):
        world.apply(lora={"r": 4, "mixture": "strong"})
        await world.until("SpecInvalid")
        assert world.condition("Accepted")["message"].startswith("The operator cannot read spec.lora.mixture: ")
        await world.settle()
        assert world.jobs() == []


def crds_of_another_version(folder: Path) -> list[Path]:
    """The CRDs, with a field spec.lora.mixture that this version knows nothing of."""
    changed = []
    for path in CRDS:
        crd = yaml.safe_load(path.read_text())
        if path.stem == naming.RUN_PLURAL:
            spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
            spec["properties"]["lora"]["properties"]["mixture"] = {"type": "string"}
        changed.append(folder / path.name)
        changed[-1].write_text(yaml.safe_dump(crd))
    return changed


async def test_a_run_file_that_cannot_be_read_is_said_so(bare_world: World, kubeconfig: Path) -> None:
    """As after a rollback: the operator that recorded it understood it."""
    world = bare_world
    async with an_operator(world, kubeconfig):
        await world.begin_training()
    name = world.config_map()
    kept = world.server.get("configmaps", name, NAMESPACE)
    world.server.delete("configmaps", name, NAMESPACE)
    metadata = {key: kept["metadata"][key] for key in ("name", "namespace", "labels", "ownerReferences")}
    data = kept["data"] | {"run.json": "{}"}
    world.server.create(kept | {"metadata": metadata, "data": data})
    recorded = {"status": {"resolvedDigest": digest_of(data)}}
    world.server.patch(naming.RUN_PLURAL, NAME, NAMESPACE, merge=recorded, subresource="status")
    async with an_operator(world, kubeconfig):
        await world.until("SpecInvalid")
        assert f"ConfigMap {name}" in world.condition("Accepted")["message"]
        assert world.jobs() == [PREPARE, train(1)], "what is at work goes on"
