"""Rewards that need no code of the user's: each judges one answer. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from jsonschema import Draft202012Validator

from lora_trainer.contract.spec.rewards import (
    ExactAnswerReward,
    JsonSchemaReward,
    LengthReward,
    NumericAnswerReward,
    RegexReward,
)

NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
FENCE = re.compile(r"\A\s*```[\w-]*\n(.*?)\n?```\s*\Z", re.DOTALL)
LARGEST_EXPONENT = 300


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer that is to be judged."""

    text: str
    ids: Sequence[int]
    """Its token ids, the end token included, without padding."""
    prompt: Any
    """What was asked: messages or a text, as in the dataset."""
    columns: Mapping[str, Any]
    """The other columns of the row."""


def exact_answer(answer: Answer, spec: ExactAnswerReward) -> float:
    """1 where the answer is the reference."""
    given, wanted = answer.text.strip(), str(answer.columns[spec.column]).strip()
    if spec.ignore_case:
        given, wanted = given.casefold(), wanted.casefold()
    return float(given == wanted)


def numeric_answer(answer: Answer, spec: NumericAnswerReward) -> float:
    """1 where both end with the same number."""
    given, wanted = last_number(answer.text), last_number(str(answer.columns[spec.column]))
    if given is None or wanted is None:
        return 0.0
    return float(abs(given - wanted) <= Decimal(str(spec.tolerance)))


def last_number(text: str) -> Decimal | None:
    """The last number of a text, thousands separators aside; None where there is none that can be computed with."""
    found = NUMBER.findall(text)
    if not found:
        return None
    number = Decimal(found[-1].replace(",", ""))
    return number if abs(number.adjusted()) <= LARGEST_EXPONENT else None


def regex(answer: Answer, spec: RegexReward) -> float:
    """1 where the pattern is found."""
    pattern = re.compile(spec.pattern, re.DOTALL)
    found = pattern.fullmatch(answer.text.strip()) if spec.full_match else pattern.search(answer.text)
    return float(found is not None)


def json_schema(answer: Answer, spec: JsonSchemaReward) -> float:
    """1 for JSON that the schema accepts, 0.5 for other JSON."""
    fenced = FENCE.match(answer.text)
    try:
        value = json.loads(fenced.group(1) if fenced else answer.text)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0 if Draft202012Validator(json.loads(spec.json_schema)).is_valid(value) else 0.5


def length(answer: Answer, spec: LengthReward) -> float:
    """1 at the target, 0 at no token and at twice the target."""
    return max(0.0, 1 - abs(len(answer.ids) - spec.target) / spec.target)
