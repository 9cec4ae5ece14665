"""The judges of a run: one per reward of training.grpo.rewards, built-in or the user's own, with their weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, SchemaError

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.rewards import RewardSpec
from lora_trainer.errors import TrainerError
from lora_trainer.rewards import builtin
from lora_trainer.rewards.builtin import Answer
from lora_trainer.rewards.user_function import UserFunction

Judgement = Callable[[Sequence[Answer]], Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """One reward."""

    name: str
    """For the log."""
    weight: float
    judge: Judgement
    """One number per answer, without the weight; None where the reward does not apply. Raises TrainerError
    RewardFailed."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """All rewards of a run."""

    judges: tuple[Judge, ...]
    functions: tuple[UserFunction, ...]

    def rewards(self, answers: Sequence[Answer]) -> list[float | None]:
        """The weighted sum of the rewards that apply, answer by answer, as TRL adds them up; None where none does."""
        weights = [judge.weight for judge in self.judges]
        judged = [judge.judge(answers) for judge in self.judges]
        return [_total(rewards, weights) for rewards in zip(*judged, strict=True)]

    def load(self) -> None:
        """Load every function of the user's now. Raises TrainerError RewardFailed."""
        for function in self.functions:
            function.load()


def _total(rewards: Sequence[float | None], weights: Sequence[float]) -> float | None:
    applying = [weight * reward for reward, weight in zip(rewards, weights, strict=True) if reward is not None]
    return sum(applying) if applying else None


def code_file(index: int) -> str:
    """Name of the file with the code of reward `index` in a prepared set."""
    return f"reward-{index}.py"


@contextmanager
def open_panel(specs: Sequence[RewardSpec], code: Path) -> Iterator[Panel]:
    """The judges, whose processes end with the block. `code` is the folder with the files that code_file names."""
    functions: list[UserFunction] = []
    judges = tuple(_judge(spec, index, code / code_file(index), functions) for index, spec in enumerate(specs))
    try:
        yield Panel(judges=judges, functions=tuple(functions))
    finally:
        for function in functions:
            function.close()


def _judge(spec: RewardSpec, index: int, source: Path, functions: list[UserFunction]) -> Judge:
    if spec.python:
        function = UserFunction(spec.python, source=source, field=_field(index, "python"))
        functions.append(function)
        return Judge(name=spec.python.function, weight=spec.weight, judge=partial(_ask, function))
    judge = _builtin(spec)
    return Judge(name=spec.kind, weight=spec.weight, judge=lambda answers: [judge(answer) for answer in answers])


def _builtin(spec: RewardSpec) -> Callable[[Answer], float]:
    if spec.exact_answer:
        return partial(builtin.exact_answer, spec=spec.exact_answer)
    if spec.numeric_answer:
        return partial(builtin.numeric_answer, spec=spec.numeric_answer)
    if spec.regex:
        return partial(builtin.regex, spec=spec.regex)
    if spec.json_schema:
        return partial(builtin.json_schema, spec=spec.json_schema)
    assert spec.length, "the API server lets no reward through that is of no kind"
    return partial(builtin.length, spec=spec.length)


def _ask(function: UserFunction, answers: Sequence[Answer]) -> list[float | None]:
    """Call a user's function as TRL calls reward functions: a chat's completion is a list of messages."""
    names = {name for answer in answers for name in answer.columns}
    columns = {name: [answer.columns.get(name) for answer in answers] for name in names}
    return function(
        count=len(answers),
        **columns,
        prompts=[answer.prompt for answer in answers],
        completions=[_completion(answer) for answer in answers],
        completion_ids=[list(answer.ids) for answer in answers],
    )


def _completion(answer: Answer) -> Any:
    return [{"role": "assistant", "content": answer.text}] if isinstance(answer.prompt, list) else answer.text


def needed_columns(specs: Sequence[RewardSpec]) -> tuple[str, ...]:
    """Columns that built-in rewards compare answers with."""
    compared = [spec.exact_answer or spec.numeric_answer for spec in specs]
    return tuple(sorted({reward.column for reward in compared if reward}))


def check(specs: Sequence[RewardSpec]) -> None:
    """Raise ConfigInvalid that names a pattern or schema which cannot be used."""
    for index, spec in enumerate(specs):
        if spec.regex:
            try:
                re.compile(spec.regex.pattern)
            except re.error as error:
                raise _invalid(_field(index, "regex.pattern"), f"is not a valid regular expression: {error}") from None
        if spec.json_schema:
            try:
                Draft202012Validator.check_schema(json.loads(spec.json_schema.json_schema))
            except json.JSONDecodeError as error:
                what = f"is not JSON: {error.msg} in line {error.lineno}"
                raise _invalid(_field(index, "jsonSchema.schema"), what) from None
            except SchemaError as error:
                what = f"is not a valid JSON Schema: {error.message}"
                raise _invalid(_field(index, "jsonSchema.schema"), what) from None


def _field(index: int, name: str) -> str:
    return f"training.grpo.rewards[{index}].{name}"


def _invalid(field: str, what: str) -> TrainerError:
    remedy = "Correct it and apply the LoraFineTune under a new name."
    return TrainerError(ExitCode.ConfigInvalid, f"{field} {what}.", remedy)
