"""What can be read of a run without the log of any pod: status, Events, metrics, and the operator's own log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from lora_operator.naming import Stage
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.progress import Phase, Progress

from tests.builders import NAME, NAMESPACE, failed_text
from tests.component.test_endpoints import fetch
from tests.component.world import World, a_progress_server, an_operator, local_address
from tests.fakes.faults import Fault
from tests.ports import free_port


def at_step(step: int, **fields: object) -> Progress:
    return Progress.model_validate({"phase": Phase.TRAINING, "step": step, "totalSteps": 600} | fields)


async def fail_in_three_attempts(world: World) -> None:
    """The store is away, then memory runs out, then the loss diverges."""
    ip = local_address()
    async with a_progress_server(ip) as answers:
        answers.now = at_step(40)
        world.apply()
        await world.prepare(micro_batch=8)
        pod = await world.start(Stage.TRAIN, 1, ip=ip)
        await world.server.wait_for(lambda: world.status().get("progress"))
        world.clock.advance(120)
        world.kubelet.terminate(pod, exit_code=137)
        await world.until("BackingOff")
        world.pass_time(11)
        answers.now = None
        pod = await world.start(Stage.TRAIN, 2, ip=ip)
        await world.until("Training")
        text = failed_text(ExitCode.OutOfMemory, message="Memory ran out.", remedy="Lower model.maxSeqLength.", step=45)
        world.kubelet.terminate(pod, exit_code=ExitCode.OutOfMemory, message=text)
        pod = await world.start(Stage.TRAIN, 3, ip=ip)
        await world.server.wait_for(lambda: "Attempt 3 trains" in world.condition("Ready")["message"])
        answers.now = at_step(50, resumedFromStep=30)
        await world.server.wait_for(lambda: world.status()["progress"]["step"] == 50)
    text = failed_text(
        ExitCode.Diverged, message="The loss became nan at step 52 of 600.", remedy="Lower learningRate.", step=52
    )
    world.kubelet.terminate(pod, exit_code=ExitCode.Diverged, message=text)
    await world.until("Diverged")
    await world.settle()


def events(world: World) -> list[tuple[str, str, str]]:
    """Type, reason and message, in order."""
    found = sorted(
        world.server.objects("events", NAMESPACE), key=lambda event: int(event["metadata"]["resourceVersion"])
    )
    return [(event["type"], event["reason"], event["message"]) for event in found]


async def test_describe_tells_the_whole_story_of_a_failed_run(world: World) -> None:
    await fail_in_three_attempts(world)
    status = world.status()
    known = ("stage", "number", "reason", "exitClass", "exitCode", "fromStep", "toStep", "node")
    assert [{key: attempt[key] for key in known if key in attempt} for attempt in status["attempts"]] == [
        record("prepare", 1, "Succeeded", "Done", exitCode=0),
        record("train", 1, "Killed", "Infrastructure", exitCode=137, toStep=40),
        record("train", 2, "OutOfMemory", "OutOfMemory", exitCode=30, toStep=45),
        record("train", 3, "Diverged", "UserError", exitCode=19, fromStep=30, toStep=52),
    ]
    assert status["attempts"][1]["durationSeconds"] >= 120
    assert [attempt.get("message") for attempt in status["attempts"]] == [
        None,
        f"Pod {pod_name(world, 1)} on node node-1 was killed by signal 9 without a termination message: it stopped "
        "answering the liveness probe, the node shut down or failed, or another process killed it.",
        "Memory ran out. Lower model.maxSeqLength.",
        "The loss became nan at step 52 of 600. Lower learningRate.",
    ]
    assert status["adjustments"][0]["perDeviceTrainBatchSize"] == 4
    assert status["usage"]["acceleratorSeconds"] >= 120
    failed = world.condition("Finished")
    assert failed["reason"] == "Diverged"
    assert failed["message"] == (
        "The loss became nan at step 52 of 600. Lower learningRate. "
        "The same input would fail again, so the operator does not retry it."
    )


def record(stage: str, number: int, reason: str, kind: str, **fields: Any) -> dict[str, Any]:
    """What is to be known of an attempt."""
    return {"stage": stage, "number": number, "reason": reason, "exitClass": kind, "node": "node-1"} | fields


def pod_name(world: World, attempt: int) -> str:
    found = world.server.objects("pods", NAMESPACE)
    job = f"{NAME}-train-{attempt}"
    return next(p["metadata"]["name"] for p in found if p["metadata"]["labels"]["batch.kubernetes.io/job-name"] == job)


async def test_events_tell_every_turn_of_the_story(world: World) -> None:
    await fail_in_three_attempts(world)
    told = events(world)
    assert [(kind, reason) for kind, reason, _ in told] == [
        ("Normal", "Preparing"),
        ("Normal", "Prepared"),
        ("Normal", "Starting"),
        ("Normal", "Training"),
        ("Warning", "Killed"),
        ("Normal", "Starting"),
        ("Normal", "Training"),
        ("Warning", "OutOfMemory"),
        ("Normal", "BatchShrunk"),
        ("Normal", "Starting"),
        ("Normal", "Training"),
        ("Normal", "Resumed"),
        ("Warning", "Diverged"),
    ]
    messages = {reason: message for _, reason, message in told}
    assert messages["Prepared"].startswith("940 of 1000 rows are tokenised")
    assert messages["OutOfMemory"] == "Train attempt 2: Memory ran out. Lower model.maxSeqLength."
    assert messages["BatchShrunk"].startswith("Train attempt 3 uses perDeviceTrainBatchSize 4")
    assert messages["Resumed"] == "Train attempt 3 resumed from the checkpoint of step 30."
    assert "Lower learningRate." in messages["Diverged"]


async def test_metrics_tell_what_it_took(bare_world: World, kubeconfig: Path) -> None:
    port = free_port()
    async with an_operator(bare_world, kubeconfig, port=port):
        await fail_in_three_attempts(bare_world)
        _, text = await fetch(port, "/metrics")
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("lora_operator_"))
    assert float(figures['lora_operator_accelerator_seconds_total{class="h100",namespace="team-a"}']) >= 120
    for reason in ("Killed", "OutOfMemory", "Diverged"):
        labels = f'namespace="team-a",reason="{reason}",stage="train"'
        assert figures[f"lora_operator_attempts_ended_total{{{labels}}}"] == "1.0"
    assert figures['lora_operator_runs{namespace="team-a",reason="Diverged"}'] == "1.0"
    assert figures['lora_operator_first_step_seconds_count{class="h100"}'] == "1.0"
    assert float(figures['lora_operator_polls_total{result="answered"}']) >= 2
    assert figures['lora_operator_adapters_published_total{namespace="team-a"}'] == "0.0"


async def test_one_line_of_log_per_turn(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="lora_operator")
    world.server.faults.add(Fault(verb="create", resource="jobs", status=500, count=1))
    world.apply()
    await world.until("Preparing")
    await world.settle()
    lines = [vars(line) for line in caplog.records if line.getMessage() == "reconciled"]
    assert all(line["run"] == f"{NAMESPACE}/{NAME}" for line in lines)
    warned = [line for line in lines if line["levelno"] == logging.WARNING]
    assert [line["result"] for line in warned] == ["api_error"]
    assert "create /apis/batch/v1" in warned[0]["error"]
    changed = [line for line in lines if line["levelno"] == logging.INFO]
    assert [(line["was"], line["is"]) for line in changed] == [(None, None), (None, "Preparing")]
    assert changed[0]["actions"][-1] == f"create Job {NAME}-prepare-1"
    others = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
    assert others == ["reconciled"], "a reconcile that fails is told of once"
