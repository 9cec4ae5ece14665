"""docs/tasks/prepare-data.md shows a row of every format, and each is one that prepare takes for that format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from lora_trainer.contract.spec.dataset import RowFormat
from lora_trainer.contract.spec.training import Method
from lora_trainer.data.formats import detect_format, normalise
from lora_trainer.data.preferences import normalise_pair
from lora_trainer.data.questions import normalise_question
from lora_trainer.data.shapes import SHAPES, FileShape

DOCUMENT = Path(__file__).parents[3] / "docs/tasks/prepare-data.md"
TEXT = DOCUMENT.read_text()
FORMATS = re.findall(r"^\| `(\w+)` \| (SFT|DPO|GRPO) \|", TEXT, re.MULTILINE)
ROWS = [json.loads(line) for line in re.findall(r"^\{.*\}$", TEXT, re.MULTILINE)]


def test_the_table_has_every_format() -> None:
    assert {name for name, _ in FORMATS} == {*RowFormat}
    assert len(FORMATS) == len(ROWS)


@pytest.mark.parametrize(("named", "row"), [*zip(FORMATS, ROWS, strict=True)], ids=[name for name, _ in FORMATS])
def test_an_example_is_a_row_of_its_format(named: tuple[str, str], row: dict[str, Any]) -> None:
    name, method = named
    assert detect_format([row], None, Method(method)) == name
    match Method(method):
        case Method.SFT:
            assert normalise(row, RowFormat(name), None)
        case Method.DPO:
            assert normalise_pair(row, None)
        case Method.GRPO:
            assert normalise_question(row, None, needed=("answer",))


HEADER = "| written by or for | rows | method | columns | prepare |\n|---|---|---|---|---|\n"


def line(shape: FileShape) -> str:
    """A shape as a line of the table."""
    if shape.columns:
        names = ", ".join(f"{name}: {theirs}" for name, theirs in shape.columns.items())
        prepare = f"reads it with `columns: {{{names}}}`"
    else:
        remedy = (shape.remedy or "").rstrip(".")
        prepare = f"refuses it: {remedy[:1].lower()}{remedy[1:]}" if shape.refusal else "reads it"
    columns = ", ".join(f"`{name}`" for name in shape.example)
    return f"| {shape.tool} | {shape.content} | {shape.method} | {columns} | {prepare} |\n"


def test_the_table_of_other_tools_is_up_to_date(request: pytest.FixtureRequest) -> None:
    rendered = HEADER + "".join(map(line, SHAPES))
    before, header, after = TEXT.partition(HEADER)
    text = before + rendered + re.sub(r"\A(\|.*\n)*", "", after)
    assert header
    if request.config.getoption("--update-golden"):
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text, "run pytest --update-golden"
