"""docs/reference/metrics.md has every alert, and docs/tasks/operate.md every setting of the operator."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from lora_operator.settings import PREFIX, OperatorSettings

ROOT = Path(__file__).parents[3]
ALERTS = (ROOT / "docs/reference/metrics.md").read_text()
SETTINGS = (ROOT / "docs/tasks/operate.md").read_text()


def test_there_is_a_row_for_each_alert() -> None:
    groups = yaml.safe_load((ROOT / "manifests/monitoring/rules.yaml").read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    assert re.findall(r"^\| `(Lora\w+)` \|", ALERTS, re.MULTILINE) == alerts


def test_there_is_a_row_for_each_setting() -> None:
    rows = re.findall(rf"^\| `{PREFIX}(\w+)` \| (.*?) \|", SETTINGS, re.MULTILINE)
    told = {name.lower(): default for name, default in rows}
    fields = OperatorSettings.model_fields
    of_the_pod = {"namespace"}
    assert set(told) == set(fields)
    assert {name: told[name] for name in fields if name not in of_the_pod} == {
        name: f"{field.default}" for name, field in fields.items() if name not in of_the_pod
    }
