"""A train pod that answers and makes no more steps, and deadlines that queues do not eat up, on the fake cluster."""

from __future__ import annotations

from lora_operator.naming import Stage
from lora_trainer.contract.progress import Phase, Progress

from tests.builders import NAME, NAMESPACE
from tests.component.world import Answers, World, a_progress_server, local_address

PREPARE, TRAIN, TRAIN_2 = f"{NAME}-prepare-1", f"{NAME}-train-1", f"{NAME}-train-2"


def stepping(step: int, **fields: object) -> Progress:
    """A trainer that is between two steps of 2 s."""
    shown = {"phase": Phase.TRAINING, "step": step, "totalSteps": 600, "stepSeconds": 2.0}
    return Progress.model_validate(shown | fields)


async def minutes_pass(world: World, answers: Answers, minutes: int) -> None:
    """The operator asks once in each of them at least, as long as the run trains."""
    for _ in range(minutes):
        world.clock.advance(60)
        # The first of two requests may have been under way already.
        enough = answers.asked + 2
        await world.server.wait_for(lambda enough=enough: answers.asked >= enough or world.reason() != "Training")


async def test_a_stuck_pod_is_replaced_once_and_then_the_run_fails(world: World) -> None:
    ip = local_address()
    async with a_progress_server(ip) as answers:
        answers.now = stepping(40)
        world.apply(retryLimit=0)
        await world.prepare()
        await world.start(Stage.TRAIN, ip=ip)
        await world.server.wait_for(lambda: world.status().get("progress"))
        await minutes_pass(world, answers, 8)
        assert world.reason() == "Training", "slow is not stuck"
        await minutes_pass(world, answers, 3)
        await world.start(Stage.TRAIN, 2, ip=ip)
        assert "NoProgress" in world.story()
        await world.until("Training")
        assert not world.condition("Stalled")
        await minutes_pass(world, answers, 12)
        # The reason is there before the end, while the pod is stopped.
        await world.server.wait_for(lambda: world.condition("Finished"), what="the end")
    status = world.status()
    assert world.reason() == "NoProgress"
    assert world.condition("Finished")["status"] == "True"
    records = [(a["reason"], a["exitClass"], a["toStep"]) for a in status["attempts"][1:]]
    assert records == [("NoProgress", "Stuck", 40), ("NoProgress", "Stuck", 40)]
    await world.server.wait_for(lambda: world.jobs() == [PREPARE], what="the end of the train Job")
    assert world.created_jobs() == [PREPARE, TRAIN, TRAIN_2]


async def test_a_pod_without_steps_to_take_is_left_alone(world: World) -> None:
    ip = local_address()
    async with a_progress_server(ip) as answers:
        world.apply()
        await world.prepare()
        await world.start(Stage.TRAIN, ip=ip)
        answers.now = stepping(40, stepSeconds=None)
        await world.until("Training")
        await minutes_pass(world, answers, 12)
        assert world.reason() == "Training"
    assert world.created_jobs() == [PREPARE, TRAIN]


async def test_a_queue_does_not_eat_up_the_deadline(world: World) -> None:
    world.apply(maxRuntimeSeconds=60)
    await world.prepare()
    await world.pod(Stage.TRAIN)
    queue(world, suspend=True)
    await world.until("Queued")
    world.pass_time(3600)
    await world.settle()
    assert world.reason() == "Queued"
    queue(world, suspend=False)
    await world.start(Stage.TRAIN)
    await world.until("Training")
    world.clock.advance(30)
    queue(world, suspend=True)
    await world.until("Queued")
    await world.settle()
    world.pass_time(3600)
    await world.settle()
    queue(world, suspend=False)
    await world.start(Stage.TRAIN)
    await world.until("Training")
    await world.settle()
    world.pass_time(31)
    status = await world.until("DeadlineExceeded")
    record = status["attempts"][-1]
    assert (record["reason"], record["exitClass"]) == ("DeadlineExceeded", "Interrupted")
    assert 60 <= record["durationSeconds"] < 90
    assert status["usage"]["acceleratorSeconds"] == record["durationSeconds"]
    assert world.created_jobs() == [PREPARE, TRAIN], "a queue costs no attempt"


def queue(world: World, *, suspend: bool) -> None:
    """What Kueue does to a Job."""
    world.server.patch("jobs", TRAIN, NAMESPACE, merge={"spec": {"suspend": suspend}})
