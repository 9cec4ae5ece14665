"""A run's work in the bucket: a Job deletes it after the end. And a run whose status is lost."""

from __future__ import annotations

import pytest
from lora_operator import naming
from lora_operator.naming import Stage, job_name
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import CleanupResult, Outcome, encode_outcome

from tests.builders import CLASS_NAME, NAME, NAMESPACE, an_artifact, failed_text, prepare_result
from tests.component.world import World
from tests.kstatus import kstatus

JOBS = [job_name(NAME, stage, 1) for stage in (Stage.PREPARE, Stage.TRAIN)]
CLEANUPS = [job_name(NAME, Stage.CLEANUP, number) for number in (1, 2)]
CLEANED = encode_outcome(Outcome(reason="Succeeded", message="Cleaned.", result=CleanupResult(files=7)))
NEWER = "f" * 40


async def published(world: World) -> None:
    """The run ends well."""
    world.apply()
    await world.prepare()
    await world.train()
    await world.until("AdapterPublished")


def retain(world: World, seconds: int) -> None:
    """The platform team says how long work stays after success."""
    storage = {"workRetention": {"afterSuccessSeconds": seconds}}
    world.server.patch(naming.CLASS_PLURAL, CLASS_NAME, merge={"spec": {"storage": storage}})


async def test_a_class_deletes_the_work_of_finished_runs(world: World) -> None:
    await published(world)
    uid = world.run()["metadata"]["uid"]
    assert world.status()["work"]["state"] == "Kept"
    retain(world, 3600)
    await world.settle()
    assert world.created_jobs() == JOBS
    world.pass_time(3600)
    pod = await world.start(Stage.CLEANUP)
    assert f"--work={world.status()['work']['uri']}" in pod["spec"]["containers"][0]["args"]
    assert world.status()["work"]["uri"].endswith(f"/{NAMESPACE}/{NAME}/{uid}")
    world.kubelet.terminate(pod, exit_code=0, message=CLEANED)
    await world.server.wait_for(lambda: world.status()["work"]["state"] == "Removed", what="the removal")
    assert world.status()["work"]["removedTime"]
    assert world.reason() == "AdapterPublished"
    world.pass_time(30 * 24 * 3600)
    await world.server.wait_for(lambda: world.jobs() == [], what="the end of the Jobs")
    assert world.created_jobs() == [*JOBS, CLEANUPS[0]]


async def test_a_cleanup_that_fails_is_told_and_retried_and_the_run_stays_ready(world: World) -> None:
    await published(world)
    retain(world, 0)
    await world.end(Stage.CLEANUP, code=ExitCode.StorageDenied, text=failed_text(ExitCode.StorageDenied))
    await world.server.wait_for(lambda: "failed" in world.status()["work"].get("message", ""), what="the message")
    assert world.status()["attempts"][-1]["reason"] == "StorageDenied"
    assert world.condition("Ready")["status"] == "True"
    assert kstatus(world.run()) == "Current"
    world.pass_time(60)
    await world.end(Stage.CLEANUP, 2, code=0, text=CLEANED)
    await world.server.wait_for(lambda: world.status()["work"]["state"] == "Removed", what="the removal")
    assert "message" not in world.status()["work"]
    assert world.created_jobs() == [*JOBS, *CLEANUPS]


async def test_a_restored_run_says_from_which_commit_its_adapter_is_and_takes_no_accelerator(world: World) -> None:
    await published(world)
    world.server.delete(naming.RUN_PLURAL, NAME, NAMESPACE)
    await world.server.wait_for(lambda: world.server.objects("jobs", NAMESPACE) == [], what="garbage collection")
    world.apply()
    model = prepare_result().model.model_copy(update={"newer_revision": NEWER})
    result = prepare_result(artifact=an_artifact()).model_copy(update={"model": model})
    text = encode_outcome(Outcome(reason="Succeeded", message="Found.", result=result))
    await world.end(Stage.PREPARE, code=0, text=text)
    status = await world.until("AdapterReused")
    assert world.created_jobs() == [*JOBS, JOBS[0]]
    assert status["model"]["newerRevision"] == NEWER
    message = world.condition("Ready")["message"]
    assert f"trained from commit {model.revision}." in message
    assert f"has moved to {NEWER}" in message


@pytest.mark.parametrize("jobs_left", [True, False])
async def test_a_run_that_loses_its_status_is_not_trained_again(world: World, jobs_left: bool) -> None:
    await published(world)
    await world.settle()
    if not jobs_left:
        world.pass_time(30 * 24 * 3600)
        await world.server.wait_for(lambda: world.jobs() == [], what="the end of the Jobs")
    uid = world.run()["metadata"]["uid"]
    world.statuses.clear()  # what was told before the disaster is no measure for what is told after it
    world.server.patch(naming.RUN_PLURAL, NAME, NAMESPACE, merge={"status": None}, subresource="status")
    if jobs_left:
        await world.until("AdapterPublished")
        assert world.created_jobs() == JOBS, "the Jobs that are there say it all"
    else:
        await world.prepare(artifact=an_artifact())
        await world.until("AdapterReused")
        assert world.created_jobs() == [*JOBS, JOBS[0]]
    assert world.run()["metadata"]["uid"] == uid
