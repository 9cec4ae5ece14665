"""A real run that explodes: ended early, and no checkpoint made of it from then on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import checkpoints_uri
from lora_trainer.training.checkpoints import committed

from tests.support.object_store import ObjectStore
from tests.support.runs import WHOLE_MODEL
from tests.support.trained import small_run

TRAINING = {"maxSteps": 40, "learningRate": 1, "warmupRatio": 0.5, "saveSteps": 2, "gradientAccumulationSteps": 1}


@pytest.mark.timeout(900)
def test_a_learning_rate_of_one_is_given_up(credentials: ObjectStore, tmp_path: Path) -> None:
    small = small_run(credentials, tmp_path, name="diverged", training=TRAINING, model={"name": WHOLE_MODEL})
    with small.attempt(1) as attempt:
        ended = attempt.wait()
    assert ended.code == ExitCode.Diverged, ended.log
    assert ended.outcome
    found = re.fullmatch(
        r"The mean loss of the last 10 steps rose to ([\d.]+), above ([\d.]+), at step (\d+) of 40; "
        r"(there is no checkpoint before that|the last checkpoint before that is s3://\S+/step-\d+)\.",
        ended.outcome.message,
    )
    assert found, ended.outcome.message
    mean, highest, step, _ = found.groups()
    assert float(mean) > float(highest)
    kept = committed(small.bucket, checkpoints_uri(small.run))
    assert kept, "those from before are kept"
    assert max(checkpoint.step for checkpoint in kept) < int(step) - 5, "none of a model in doubt is made"
    assert "learningRate" in (ended.outcome.remedy or "")
