"""Whatever a pod writes or answers, the API server takes the status that the operator makes of it."""

from __future__ import annotations

import functools
import json
import math
import operator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from lora_operator.generate.crds import run_crd
from lora_operator.naming import Stage
from lora_operator.planning.observed import PolledProgress
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.progress import Phase, Progress
from lora_trainer.contract.untrusted import LARGEST, UNSEEN, read_untrusted

from tests.builders import failed_text, prepared_text, trained_text
from tests.fakes.schema import violations
from tests.unit.operator.simulation import PREPARE, TRAIN, Simulation, preparing, training

HOSTILE = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, LARGEST, 10**30, -(10**30), 1e308, math.nan, math.inf, "", [], {}, "\x1b[2J", "A" * 600]
    ),
    st.text(max_size=40),
    st.lists(st.integers(), max_size=3),
)
STATUS = run_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
PROGRESS = Progress(phase=Phase.TRAINING, step=4, total_steps=10, loss=1.5).wire()


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(found for key, item in items for found in leaves(item, (*path, key)))]


def replaced(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with another value at a path."""
    if not path:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[path[0]] = replaced(node[path[0]], path[1:], value)
    return copy


@st.composite
def spoiled(draw: st.DrawFn, document: str) -> str:
    """The document with up to three values replaced by what no trainer writes."""
    node = json.loads(document)
    for _ in range(draw(st.integers(1, 3))):
        node = replaced(node, draw(st.sampled_from(leaves(node))), draw(HOSTILE))
    return json.dumps(node)


def expect_storable(world: Simulation) -> None:
    """The status fits the CRD, and shows nothing that a terminal would obey."""
    status = world.run.status.wire()
    for path in leaves(status):
        match value := functools.reduce(operator.getitem, path, status):
            case str():
                assert not UNSEEN.search(value)
            case float() | int():
                assert abs(value) <= LARGEST or isinstance(value, float)
                assert math.isfinite(value)
    assert violations(status, STATUS) == []
    assert world.reason is not None


@settings(max_examples=300, deadline=None)
@given(data=st.data(), code=st.sampled_from([0, *map(int, ExitCode)]))
def test_a_termination_message_cannot_spoil_the_status(data: st.DataObject, code: int) -> None:
    stage = data.draw(st.sampled_from(list(Stage)))
    sound = (
        (prepared_text() if stage is Stage.PREPARE else trained_text()) if code == 0 else failed_text(ExitCode(code))
    )
    world, job = (preparing(), PREPARE) if stage is Stage.PREPARE else (training(), TRAIN)
    world.end(job, code, data.draw(spoiled(sound)))
    world.reconcile()
    world.reconcile()
    expect_storable(world)


@settings(max_examples=300, deadline=None)
@given(answer=spoiled(json.dumps(PROGRESS)))
def test_an_answer_about_progress_cannot_spoil_the_status(answer: str) -> None:
    world = training()
    try:
        progress = read_untrusted(answer, Progress)
    except ValueError:
        return
    pod = world.jobs[TRAIN].newest_pod
    assert pod is not None
    world.reconcile(polled=PolledProgress(progress=progress, time=world.now, pod=pod.name))
    expect_storable(world)
