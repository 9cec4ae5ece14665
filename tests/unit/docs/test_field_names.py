"""Every field that a page or a message names is in the API."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lora_operator.generate.crds import class_crd, run_crd

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    {ROOT / "README.md", *(ROOT / "docs").rglob("*.md")}
    # One lists fields by their place in a block, the other those of earlier builds.
    - {ROOT / "docs/reference/fields.md", ROOT / "docs/reference/migration.md"}
)
CODE = sorted([*(ROOT / "operator").rglob("*.py"), *(ROOT / "trainer-image/lora_trainer").rglob("*.py")])
SCHEMAS = [crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"] for crd in (run_crd(), class_crd())]
BLOCKS = sorted({name for schema in SCHEMAS for name in schema["spec"]["properties"]})
PATH = re.compile(
    rf"(?<![\w./<-])((?:(?:spec|status)\.)[a-z][A-Za-z0-9]*|{'|'.join(BLOCKS)})((?:(?:\[\])?\.[a-z][A-Za-z0-9]*)+)(?![\w/(])"
)
"""A path of at least two names. A path of files or a call is none."""
FILES = (".py", ".json", ".safetensors", ".jsonl", ".md", ".parquet", ".csv", ".yaml", ".txt")


def fields(text: str) -> Iterator[str]:
    """The paths that a text names."""
    found = ("".join(match.groups()) for match in PATH.finditer(text))
    return (path for path in found if not path.endswith(FILES))


def exists(path: str) -> bool:
    """Whether a run or class has the field; a path without spec or status is one below spec."""
    names = path.replace("[]", "").split(".")
    names = names if names[0] in ("spec", "status") else ["spec", *names]
    return any(_has({"properties": schema}, names) for schema in SCHEMAS)


def _has(schema: dict[str, Any], names: list[str]) -> bool:
    for name in names:
        schema = schema.get("items", schema)
        if "additionalProperties" in schema:
            return True
        if name not in schema.get("properties", {}):
            return False
        schema = schema["properties"][name]
    return True


def messages(file: Path) -> Iterator[str]:
    """The texts of a module that hold a sentence, docstrings included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_field_that_a_page_names_exists(page: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", page.read_text())
    assert [path for span in spans for path in fields(span) if not exists(path)] == []


def test_every_field_that_a_message_names_exists() -> None:
    wrong = {
        f"{file.relative_to(ROOT)}: {path}"
        for file in CODE
        for text in messages(file)
        for path in fields(text)
        if not exists(path)
    }
    assert wrong == set()


@pytest.mark.parametrize("path", ["lora.rank", "spec.training.steps", "status.progress.stage", "dataset.sources[].url"])
def test_a_field_that_does_not_exist_is_found(path: str) -> None:
    assert [name for name in fields(f"Set {path} to 8.") if not exists(name)] == [path]
