"""The notebooks of manifests/samples, run on SmolLM2 with rows of the shape that each of them states, and fewer steps.

Each must improve its own measure, on rows that were held out.
"""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Evaluation

from tests.support.demo_assets import DemoAssets
from tests.support.object_store import ObjectStore
from tests.support.runs import BUCKET, WHOLE_MODEL
from tests.support.trained import SmallRun, small_run

SAMPLES = Path(__file__).parents[2] / "manifests/samples/notebooks"


def notebook(
    store: ObjectStore,
    folder: Path,
    *,
    name: str,
    rows: Iterable[Mapping[str, Any]],
    longest: int,
    training: Mapping[str, Any],
    quantization: str = "NF4",
) -> SmallRun:
    """The sample with these `rows`, and `training` over its own."""
    path = store.folder / BUCKET / f"data/{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = yaml.safe_load((SAMPLES / f"{name}.yaml").read_text())["spec"]
    return small_run(
        store,
        folder,
        name=name,
        lora=spec["lora"],
        model={"name": WHOLE_MODEL, "maxSeqLength": longest, "quantization": quantization},
        dataset=spec["dataset"] | {"uri": f"s3://{BUCKET}/data/{name}.jsonl"},
        training=spec["training"] | dict(training),
        evaluation={"maxRows": 16, "holdoutFraction": 0.2, "samples": 0, "exactMatch": None, "prompts": []},
    )


def trained(small: SmallRun, *, attempt: int = 1) -> Evaluation:
    """Train to the published adapter."""
    with small.attempt(attempt) as process:
        return process.wait().result.evaluation


def questions_and_queries(assets: DemoAssets, count: int) -> list[tuple[str, str]]:
    """The shortest of Spider's rows, without their tables."""
    chats = (json.loads(line)["messages"] for line in assets.train.read_text().splitlines())
    pairs = {(chat[1]["content"].rpartition("\n\n")[2], chat[2]["content"]) for chat in chats}
    return sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))[:count]


def test_conversational(credentials: ObjectStore, assets: DemoAssets, tmp_path: Path) -> None:
    small = notebook(
        credentials,
        tmp_path,
        name="conversational",
        rows=(
            {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": query}]}
            for question, query in questions_and_queries(assets, 120)
        ),
        longest=96,
        training={"maxSteps": 8, "learningRate": 1e-3, "gradientAccumulationSteps": 1},
    )
    figures = trained(small)
    assert figures.loss is not None
    assert figures.base_loss is not None
    assert figures.loss < 0.6 * figures.base_loss
    assert figures.token_accuracy is not None
    assert figures.base_token_accuracy is not None
    assert 0 < figures.base_token_accuracy <= figures.token_accuracy <= 1


def test_text_completion(credentials: ObjectStore, assets: DemoAssets, tmp_path: Path) -> None:
    small = notebook(
        credentials,
        tmp_path,
        name="text-completion",
        rows=({"text": f"{question}\n{query}"} for question, query in questions_and_queries(assets, 120)),
        longest=96,
        training={"maxSteps": 8, "learningRate": 1e-3, "gradientAccumulationSteps": 1},
    )
    figures = trained(small)
    assert figures.loss is not None
    assert figures.base_loss is not None
    assert figures.loss < 0.8 * figures.base_loss


@pytest.mark.timeout(1200)
def test_grpo_and_its_resumption(credentials: ObjectStore, tmp_path: Path) -> None:
    generator = random.Random(3407)
    sums = [(generator.randint(1, 9), generator.randint(1, 9)) for _ in range(400)]
    small = notebook(
        credentials,
        tmp_path,
        name="grpo",
        rows=(
            {"question": f"Tom has {a} apples and gets {b} more. How many has he?", "answer": f"{a} + {b} #### {a + b}"}
            for a, b in sorted({*sums})
        ),
        longest=128,
        quantization="None",  # it generates, for which 4 bits are decoded again with every token
        training={
            "maxSteps": 6,
            "learningRate": 1e-3,
            "lrSchedulerType": "constant",
            "perDeviceTrainBatchSize": 8,
            "gradientAccumulationSteps": 1,
            "maxGradNorm": 1.0,
            "grpo": {
                "numGenerations": 8,
                "maxPromptLength": 64,
                "maxCompletionLength": 14,
                "rewards": [{"numericAnswer": {"column": "answer"}, "weight": 0.5}, {"regex": {"pattern": "="}}],
            },
        },
    )
    with small.attempt(1) as attempt:
        attempt.wait_until(lambda progress: progress.step >= 2)
        assert attempt.signal(signal.SIGTERM).code == ExitCode.Interrupted
    figures = trained(small, attempt=2)
    assert figures.reward is not None
    assert figures.base_reward is not None
    assert figures.reward > figures.base_reward + 0.3
    assert [step["step"] for step in small.training_log] == [1, 2, 3, 4, 5, 6], "each step is taken once"
