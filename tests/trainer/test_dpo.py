"""DPO with real parts: pairs made of Spider's rows, trained on SmolLM2, stopped and resumed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import EVALUATION
from lora_trainer.publishing.folder import TRAINING_LOG

from tests.support.attempts import Ended
from tests.support.demo_assets import DemoAssets
from tests.support.object_store import ObjectStore
from tests.support.runs import BUCKET, FIRST_LAYERS
from tests.support.trained import SmallRun, small_run

STEPS = 4
PAIRS = 48


@pytest.fixture(scope="module")
def pairs(store: ObjectStore, assets: DemoAssets) -> str:
    """Short questions of Spider, each with its query chosen and an excuse rejected."""
    rows = [json.loads(line)["messages"] for line in assets.train.read_text().splitlines()]
    short = sorted(rows, key=lambda messages: sum(len(message["content"]) for message in messages))[:PAIRS]
    excuse = {"role": "assistant", "content": "I am sorry, but I do not know the tables."}
    path = store.folder / BUCKET / "data/pairs.jsonl"
    with path.open("w") as file:
        for messages in short:
            pair = {"prompt": messages[:-1], "chosen": [messages[-1]], "rejected": [excuse]}
            file.write(json.dumps(pair) + "\n")
    return f"s3://{BUCKET}/data/pairs.jsonl"


def dpo_run(store: ObjectStore, pairs: str, folder: Path, *, name: str) -> SmallRun:
    return small_run(
        store,
        folder,
        name=name,
        training={"method": "DPO", "maxSteps": STEPS, "learningRate": 5e-4, "saveSteps": 1, "dpo": {"beta": 0.2}},
        dataset={"uri": pairs},
        evaluation={"maxRows": 4, "holdoutFraction": 0.1, "samples": 1},
        model={"name": FIRST_LAYERS, "maxSeqLength": 256},
    )


@pytest.fixture(scope="module")
def uninterrupted(store: ObjectStore, pairs: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallRun, Ended]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        small = dpo_run(store, pairs, tmp_path_factory.mktemp("dpo"), name="dpo")
        with small.attempt(1) as attempt:
            ended = attempt.wait()
    assert ended.code == ExitCode.Succeeded, ended.log
    return small, ended


def test_the_chosen_answers_are_preferred_on_held_out_pairs(uninterrupted: tuple[SmallRun, Ended]) -> None:
    _, ended = uninterrupted
    evaluation = ended.result.evaluation
    assert evaluation.rows == 4
    assert evaluation.reward_accuracy is not None
    assert evaluation.reward_margin is not None
    assert evaluation.reward_accuracy == 1
    assert evaluation.reward_margin > 0.1


def test_the_log_shows_how_the_preference_is_learnt(
    uninterrupted: tuple[SmallRun, Ended], credentials: ObjectStore
) -> None:
    del credentials
    small, _ = uninterrupted
    steps = small.training_log
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert steps[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "the reference is the model before it was trained"
    assert steps[0]["rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert steps[-1]["loss"] < 0.68


def test_checkpoints_hold_one_adapter(uninterrupted: tuple[SmallRun, Ended], credentials: ObjectStore) -> None:
    del credentials
    small, _ = uninterrupted
    names = {file.path for file in small.bucket.list(small.artifact)}
    assert "adapter_model.safetensors" in names
    assert not any(name.startswith("ref/") for name in names)


@pytest.mark.timeout(900)
def test_a_stopped_run_publishes_the_bytes_of_an_uninterrupted_one(
    store: ObjectStore, pairs: str, uninterrupted: tuple[SmallRun, Ended], credentials: ObjectStore, tmp_path: Path
) -> None:
    del credentials
    whole, _ = uninterrupted
    small = dpo_run(store, pairs, tmp_path, name="dpo-resumed")
    assert small.digest == whole.digest
    with small.attempt(1) as attempt:
        attempt.wait_until(lambda progress: progress.step >= 2)
        stopped = attempt.signal(signal.SIGTERM)
    assert stopped.code == ExitCode.Interrupted, stopped.log
    assert stopped.outcome
    assert 2 <= (stopped.outcome.step or 0) < STEPS
    with small.attempt(2) as attempt:
        began = attempt.wait_until(lambda progress: progress.resumed_from_step is not None)
        assert began.resumed_from_step == stopped.outcome.step
        ended = attempt.wait()
    assert ended.code == ExitCode.Succeeded, ended.log
    for name in ("adapter_model.safetensors", TRAINING_LOG, EVALUATION):
        ours = small.bucket.read(f"{small.artifact}/{name}")
        assert ours == whole.bucket.read(f"{whole.artifact}/{name}"), name
