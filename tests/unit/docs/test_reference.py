"""docs/reference/fields.md says what the CRDs say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.unit.docs.reference import reference

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs/reference/fields.md"
CRDS = ("lorafinetunes", "lorafinetuneclasses")
INTRODUCTION = """\
# Field reference

Made from the CRDs by `pytest --update-golden`. Do not edit. `kubectl explain lft.spec` says the same.
An unset field has the default that its text names, or that of the class. The trainer chooses numbers of the training
that have none. `status.settings` shows what a run got. An object's fields are listed below it.
"""


def schema_of(plural: str) -> dict[str, object]:
    return yaml.safe_load((ROOT / f"manifests/crd/{plural}.yaml").read_text())


def test_the_reference_is_up_to_date(request: pytest.FixtureRequest) -> None:
    rendered = "\n".join((INTRODUCTION, *(reference(schema_of(plural)) for plural in CRDS)))
    if request.config.getoption("--update-golden"):
        DOCUMENT.write_text(rendered)
    assert DOCUMENT.read_text() == rendered, "run pytest --update-golden"


def test_a_field_shows_its_type_default_bounds_and_text() -> None:
    fields = {
        "r": {"type": "integer", "minimum": 1, "maximum": 256, "description": "Rank\n| of the adapter. (default 16)"},
        "bias": {"type": "string", "enum": ["none", "all"], "description": "Which biases train."},
        "memory": {"x-kubernetes-int-or-string": True, "description": "Memory."},
        "rewards": {
            "type": "array",
            "maxItems": 8,
            "description": "Rewards.",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string", "maxLength": 63}},
            },
        },
    }
    spec = {
        "type": "object",
        "description": "What is wanted.",
        "properties": fields,
        "x-kubernetes-validations": [{"rule": "true", "message": "Set what you like."}],
    }
    schema = {"type": "object", "description": "A run.", "properties": {"spec": spec}}
    names = {"names": {"kind": "Run"}, "versions": [{"schema": {"openAPIV3Schema": schema}}]}
    assert reference({"spec": names}).splitlines()[-11:] == [
        "| field | type | what it is |",
        "|---|---|---|",
        "| `r` | integer | Rank \\| of the adapter. (default 16) (>= 1, <= 256) |",
        "| `bias` | `none` \\| `all` | Which biases train. |",
        "| `memory` | quantity | Memory. |",
        "| `rewards` | list of object | Rewards. (at most 8 items) |",
        "| `rewards[].name` | string, required | (at most 63 characters) |",
        "",
        "The API server also refuses what breaks one of these rules:",
        "",
        "- Set what you like.",
    ]
