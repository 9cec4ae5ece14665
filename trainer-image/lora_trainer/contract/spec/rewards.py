"""Rewards of method GRPO."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from lora_trainer.contract.spec.cel import rule, rules
from lora_trainer.contract.spec.places import ConfigMapKeyRef
from lora_trainer.contract.wire import WireModel


class ExactAnswerReward(WireModel):
    """1 where the answer equals the reference, ignoring white space at both ends; else 0."""

    column: Annotated[str, Field(min_length=1, max_length=128)] = "answer"
    """Column of the dataset with the reference."""
    ignore_case: bool = False
    """Whether upper and lower case count as the same."""


class NumericAnswerReward(WireModel):
    """1 where the last number in the answer is the last number in the reference; else 0."""

    column: Annotated[str, Field(min_length=1, max_length=128)] = "answer"
    """Column of the dataset with the reference: a number, or a string that ends with one."""
    tolerance: Annotated[float, Field(ge=0, le=1_000_000_000)] = 0.0
    """Largest difference that still counts as equal."""


class RegexReward(WireModel):
    """1 where a regular expression is found in the answer; else 0."""

    pattern: Annotated[str, Field(min_length=1, max_length=1024)]
    """Regular expression in Python's syntax. A dot matches line breaks too."""
    full_match: bool = False
    """Whether it must match the whole answer, ignoring white space at both ends."""


class JsonSchemaReward(WireModel):
    """1 where the answer is JSON that a schema accepts, 0.5 where it is other JSON, else 0. A Markdown fence around the
    answer is allowed."""

    json_schema: Annotated[str, Field(alias="schema", min_length=2, max_length=16_384)]
    """JSON Schema (draft 2020-12) as JSON text."""


class LengthReward(WireModel):
    """1 for an answer of the target length, falling linearly to 0 at no tokens and at twice the target."""

    target: Annotated[int, Field(ge=1, le=1_048_576)]
    """Best length in tokens."""


class PythonReward(WireModel):
    """Your own function, called as TRL calls reward functions: with the keyword arguments prompts, completions,
    completion_ids and every column of the dataset, all lists of the same length. It returns one number per completion,
    or None for one that it does not apply to.

    It runs in its own process, without credentials, and may write into TMPDIR alone. The code is fixed when the run is
    prepared.
    """

    config_map_ref: ConfigMapKeyRef
    """ConfigMap key with the Python source."""
    function: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "reward"
    """Name of the function in it."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """Seconds that one call, which judges a whole batch, may take."""


REWARD_KINDS = ("exactAnswer", "numericAnswer", "regex", "jsonSchema", "length", "python")


class RewardSpec(WireModel):
    """One reward for an answer. Exactly one kind must be set."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"[{', '.join(f'has(self.{kind})' for kind in REWARD_KINDS)}].filter(given, given).size() == 1",
                f"A reward takes exactly one of {', '.join(REWARD_KINDS)}.",
            )
        )
    )

    weight: Annotated[float, Field(ge=-1000, le=1000)] = 1.0
    """Factor of this reward in the sum that the model learns from."""
    exact_answer: ExactAnswerReward | None = None
    """Rewards answers that equal the reference."""
    numeric_answer: NumericAnswerReward | None = None
    """Rewards answers that end with the right number."""
    regex: RegexReward | None = None
    """Rewards answers in which a regular expression is found."""
    json_schema: JsonSchemaReward | None = None
    """Rewards answers that are JSON of a given schema."""
    length: LengthReward | None = None
    """Rewards answers of a given length."""
    python: PythonReward | None = None
    """Rewards answers by your own function."""

    @property
    def kind(self) -> str:
        """The kind that is given, as it is written."""
        return next(kind for kind in REWARD_KINDS if kind in self.wire())
