"""The objects of the fuzzing follow from the seed, and are of many kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from lora_operator import naming

from tests.fakes.schema import violations
from tests.fuzz.mutations import SCHEMAS
from tests.fuzz.steps import Deed, classes, runs, step_of
from tests.fuzz.values import Schema, Values, beyond, valid

STEPS = [step_of(number, seed_text="unit") for number in range(1, 61)]


def test_the_same_seed_makes_the_same_objects() -> None:
    assert step_of(7, seed_text="unit") == STEPS[6]
    assert step_of(7, seed_text="another") != STEPS[6]


def test_every_kind_and_deed_comes_up_and_no_object_twice() -> None:
    assert set(Counter((step.kind, step.deed) for step in STEPS)) == {
        (kind, deed) for kind in (naming.RUN_KIND, naming.CLASS_KIND) for deed in Deed
    }
    assert len({str(step.body) for step in STEPS}) == len(STEPS)


def nodes(schema: Schema) -> Iterator[Schema]:
    """Every node of a schema."""
    yield schema
    below = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for child in below:
        if isinstance(child, dict):
            yield from nodes(child)


@pytest.mark.parametrize("values", [valid, beyond])
@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_node_of_the_schema_has_values(kind: str, values: Callable[[Schema], Values]) -> None:
    for node in nodes(SCHEMAS[kind]):
        values(node).validate()


def test_objects_begin_sound() -> None:
    for body in (*runs(), *classes()):
        assert violations(body, SCHEMAS[body["kind"]]) == []
