"""The judge of endings in the fault simulation objects to each wrong one, and to no right one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import UID
from tests.faults.judge import judge
from tests.faults.scripts import SCRIPTS, Script
from tests.faults.trainers import Truth

Obj = dict[str, Any]
PLAIN, FLAKY, NO_BUCKET, HUNG = (
    next(script for script in SCRIPTS if script.name == name) for name in ("plain", "flaky", "no-bucket", "hung")
)
PREPARED = ("prepare", "Succeeded", 0)
TRAINED = ("train", "Succeeded", 0)
NO_STORAGE = ("train", "StorageUnavailable", 50)
JOB_DELETED = ("train", "JobDeleted", None)


def verdict(
    script: Script,
    reason: str,
    *ends: tuple[str, str | None, int | None],
    happened: tuple[tuple[str, str | None, int | None], ...] | None = None,
    disturbed: bool = False,
    retry_limit: int = 1,
) -> list[str]:
    """What the judge says of a run with these attempts; `happened` is what truly happened to them."""
    truth, attempts, numbers = Truth(), [], {"prepare": 0, "train": 0}
    for stage, told, code in ends:
        numbers[stage] += 1
        attempts.append({"stage": stage, "number": numbers[stage], "reason": told, "exitCode": code or 1})
    numbers = {"prepare": 0, "train": 0}
    for stage, end, _ in happened if happened is not None else ends:
        numbers[stage] += 1
        truth.ends[UID, stage, numbers[stage]].add(end or "")
        truth.natural[UID, stage].append(end or "")
    if disturbed:
        truth.disturbed.add(UID)
    status = {"conditions": [{"type": "Ready", "reason": reason}], "attempts": attempts}
    return judge({"metadata": {"uid": UID}, "spec": {"retryLimit": retry_limit}, "status": status}, script, truth)


RIGHT = [
    (PLAIN, "AdapterPublished", (PREPARED, TRAINED)),
    (FLAKY, "AdapterPublished", (PREPARED, NO_STORAGE, TRAINED)),
    (NO_BUCKET, "StorageUnavailable", (PREPARED, NO_STORAGE, NO_STORAGE)),
]


@pytest.mark.parametrize(("script", "reason", "ends"), RIGHT, ids=[row[0].name for row in RIGHT])
def test_a_right_ending(script: Script, reason: str, ends: Any) -> None:
    assert verdict(script, reason, *ends) == []


@pytest.mark.parametrize("end", ["Succeeded", "OutcomeMissing"])
@pytest.mark.parametrize(("told", "objections"), [("ResultLost", 0), ("PodLost", 1)])
def test_what_a_pod_that_exited_with_0_said_is_lost_with_it(end: str, told: str, objections: int) -> None:
    truth = Truth()
    truth.disturbed.add(UID)
    happened = {("prepare", 1): {"Succeeded"}, ("train", 1): {end, "PodLost"}, ("train", 2): {"Succeeded"}}
    truth.ends.update({(UID, *attempt): ends for attempt, ends in happened.items()})
    reasons = ("Succeeded", told, "Succeeded")
    attempts = [
        {"stage": stage, "number": number, "reason": reason, "exitCode": 0}
        for (stage, number), reason in zip(happened, reasons, strict=True)
    ]
    status = {"conditions": [{"type": "Ready", "reason": "AdapterPublished"}], "attempts": attempts}
    assert len(judge({"metadata": {"uid": UID}, "spec": {}, "status": status}, PLAIN, truth)) == objections


def test_people_who_delete_jobs_use_up_the_retries() -> None:
    ends = (PREPARED, JOB_DELETED, JOB_DELETED)
    assert verdict(PLAIN, "JobDeleted", *ends, disturbed=True) == []


WRONG = [
    ("it ended with Diverged instead of", {"script": PLAIN, "reason": "Diverged"}, (PREPARED, TRAINED)),
    ("it gave up after", {"script": NO_BUCKET, "reason": "StorageUnavailable"}, (PREPARED, NO_STORAGE)),
    (
        "it went on after it should have given up",
        {"script": NO_BUCKET, "reason": "StorageUnavailable", "retry_limit": 0},
        (PREPARED, NO_STORAGE, NO_STORAGE),
    ),
    ("although its last attempt ended with", {"script": NO_BUCKET, "reason": "PodLost"}, (PREPARED, NO_STORAGE)),
    ("although train ended with", {"script": FLAKY, "reason": "AdapterPublished"}, (PREPARED, NO_STORAGE)),
    ("but ['Succeeded'] happened to it",
     {"script": PLAIN, "reason": "AdapterPublished", "happened": (PREPARED, TRAINED)}, (PREPARED, JOB_DELETED)),
    ("but there were", {"script": PLAIN, "reason": "AdapterPublished", "happened": (PREPARED, TRAINED, TRAINED)},
     (PREPARED, TRAINED)),
    ("its deadline was far away", {"script": PLAIN, "reason": "DeadlineExceeded"}, (PREPARED, TRAINED)),
    ("says None", {"script": PLAIN, "reason": "AdapterPublished", "happened": (PREPARED, TRAINED)},
     (PREPARED, ("train", None, None))),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "run", "ends"), WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_ending(sentence: str, run: Obj, ends: Any) -> None:
    script, reason = run["script"], run["reason"]
    more = {key: value for key, value in run.items() if key not in ("script", "reason")}
    found = verdict(script, reason, *ends, **more)
    assert any(sentence in text for text in found), found
