"""docs/reference/failures.md lists every reason: for what keeps a run from its end, cause and remedy too."""

from __future__ import annotations

from pathlib import Path

import pytest
from lora_operator.api.reasons import Reason
from lora_operator.planning import gates, pod_problems
from lora_trainer.contract.exits import KILLED, ExitClass, ExitCode, exit_class

from tests.unit.docs.member_texts import Text, member_texts

DOCUMENT = Path(__file__).parents[3] / "docs/reference/failures.md"
INTRODUCTION = """\
# Failure catalogue

Made from the code by `pytest --update-golden`. Do not edit. The message of a run names the field, file or object. This
page says what the reason in its STATUS column means, why it comes up, and what helps.
[Life of a run](../concepts/life-of-a-run.md#how-an-attempt-ends) says what follows from each exit code.
"""
SIGNALLED = Text(
    meaning="A signal ended the container, and it left no termination message.",
    cause="The node shut down, the kubelet ended a pod that no longer answered, or a person killed the process.",
    remedy="None at first: it is retried. If it happens again, see the node's Events.",
)
"""Of exits.KILLED, which is no member of an enum."""
FOLLOWS = {
    ExitClass.USER_ERROR: "The run fails at once, because the same input would fail again.",
    ExitClass.OUT_OF_MEMORY: "Retried with half the micro-batch and the same effective batch.",
    ExitClass.INTERRUPTED: "Resumes from the checkpoint; does not count as a retry.",
    ExitClass.INFRASTRUCTURE: "Retried after a pause that doubles, `spec.retryLimit` times.",
    ExitClass.BUG: "Retried once.",
}


def trainer_table() -> str:
    texts = member_texts(ExitCode)
    rows = [
        f"| `{code.name}` | {code.value} | {cells(texts[code.name])} | {FOLLOWS[exit_class(code)]} |"
        for code in ExitCode
        if code is not ExitCode.Succeeded
    ]
    head = ["| reason | exit code | meaning | cause | remedy | what the operator does |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def operator_table() -> str:
    rows = [f"| `{Reason[name].value}` | {cells(text)} |" for name, text in member_texts(Reason).items() if text.remedy]
    rows.append(f"| `{KILLED}` | {cells(SIGNALLED)} |")
    return "\n".join(["| reason | meaning | cause | remedy |", "|---|---|---|---|", *rows])


def other_table() -> str:
    texts = member_texts(Reason).items()
    rows = [f"| `{Reason[name].value}` | {text.meaning} |" for name, text in texts if text.remedy is None]
    return "\n".join(["| reason | meaning |", "|---|---|", *rows])


def cells(text: Text) -> str:
    return f"{text.meaning} | {text.cause} | {text.remedy}"


def test_the_catalogue_is_up_to_date(request: pytest.FixtureRequest) -> None:
    parts = {
        "The trainer's reasons": trainer_table(),
        "The operator's reasons": operator_table(),
        "Reasons that need no remedy": other_table(),
    }
    sections = (f"## {title}\n\n{table}" for title, table in parts.items())
    rendered = "\n\n".join((INTRODUCTION.rstrip(), *sections)) + "\n"
    if request.config.getoption("--update-golden"):
        DOCUMENT.write_text(rendered)
    assert DOCUMENT.read_text() == rendered, "run pytest --update-golden"


def test_every_failure_of_the_trainer_has_a_cause_and_a_remedy() -> None:
    texts = member_texts(ExitCode)
    incomplete = [name for name, text in texts.items() if not (text.cause and text.remedy)]
    assert incomplete == [ExitCode.Succeeded.name]


@pytest.mark.parametrize("module", [gates, pod_problems], ids=["gates", "pod problems"])
def test_everything_that_keeps_a_run_from_starting_has_a_remedy(module: object) -> None:
    source = Path(str(vars(module)["__file__"])).read_text()
    named = [name for name in Reason.__members__ if f"Reason.{name}" in source]
    texts = member_texts(Reason)
    assert named
    assert [name for name in named if texts[name].remedy is None] == []
