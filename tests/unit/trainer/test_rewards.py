"""Rewards: the built-in ones, their checks, and the user's own in a process of its own."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.rewards import RewardSpec
from lora_trainer.errors import TrainerError
from lora_trainer.rewards.builtin import Answer, last_number
from lora_trainer.rewards.intake import take_rewards
from lora_trainer.rewards.panel import check, code_file, needed_columns, open_panel
from lora_trainer.storage import Bucket, open_bucket

from tests.support.runs import run_file

DOCUMENTED = Path(__file__).parents[3] / "docs/tasks/choose-a-method.md"
CHAT = [{"role": "user", "content": "q"}]


def answer(text: str, *, tokens: int = 1, prompt: Any = CHAT, **columns: Any) -> Answer:
    return Answer(text=text, ids=range(tokens), prompt=prompt, columns=columns)


def reward(spec: dict[str, Any], given: Answer) -> float | None:
    with open_panel([RewardSpec.model_validate(spec)], Path()) as panel:
        (value,) = panel.rewards([given])
    return value


@pytest.mark.parametrize(
    ("spec", "given", "expected"),
    [
        ({"exactAnswer": {}}, answer(" Paris\n", answer="Paris"), 1),
        ({"exactAnswer": {}}, answer("paris", answer="Paris"), 0),
        ({"exactAnswer": {"ignoreCase": True, "column": "city"}}, answer("paris", city="Paris"), 1),
        ({"exactAnswer": {}}, answer("42", answer=42), 1),
        ({"numericAnswer": {}}, answer("3 + 4 makes 7.", answer="#### 7"), 1),
        ({"numericAnswer": {}}, answer("It is 1,234.50 EUR", answer=1234.5), 1),
        ({"numericAnswer": {}}, answer("It is 8", answer="7"), 0),
        ({"numericAnswer": {"tolerance": 0.1}}, answer("about 3.1", answer="3.14"), 1),
        ({"numericAnswer": {}}, answer("I do not know", answer="7"), 0),
        ({"numericAnswer": {}}, answer("1e999999999", answer="7"), 0),
        ({"regex": {"pattern": "<answer>.*</answer>"}}, answer("so <answer>4\n</answer>!"), 1),
        ({"regex": {"pattern": "[0-9]+", "fullMatch": True}}, answer(" 12 "), 1),
        ({"regex": {"pattern": "[0-9]+", "fullMatch": True}}, answer("12 or 13"), 0),
        ({"jsonSchema": {"schema": '{"type": "object", "required": ["a"]}'}}, answer('{"a": 1}'), 1),
        ({"jsonSchema": {"schema": '{"type": "object", "required": ["a"]}'}}, answer("[1]"), 0.5),
        ({"jsonSchema": {"schema": '{"type": "object"}'}}, answer("```json\n{}\n```"), 1),
        ({"jsonSchema": {"schema": '{"type": "object"}'}}, answer("Here it is: {}"), 0),
        ({"jsonSchema": {"schema": "{}"}}, answer("[" * 100_000), 0),
        ({"length": {"target": 10}}, answer("x", tokens=10), 1),
        ({"length": {"target": 10}}, answer("x", tokens=5), 0.5),
        ({"length": {"target": 10}}, answer("x", tokens=30), 0),
        ({"length": {"target": 10}, "weight": -2}, answer("x", tokens=10), -2),
    ],
)
def test_built_in_rewards(spec: dict[str, Any], given: Answer, expected: float) -> None:
    assert reward(spec, given) == expected


def test_rewards_are_added_up_by_weight() -> None:
    specs = [
        RewardSpec.model_validate({"regex": {"pattern": "a"}, "weight": 2}),
        RewardSpec.model_validate({"length": {"target": 4}}),
    ]
    with open_panel(specs, Path()) as panel:
        assert panel.rewards([answer("a", tokens=2), answer("b", tokens=4)]) == [2.5, 1]
        assert [judge.name for judge in panel.judges] == ["regex", "length"]


@given(st.text(max_size=200))
def test_any_text_has_a_last_number_or_none(text: str) -> None:
    number = last_number(text)
    assert number is None or number.is_finite()


def test_columns_that_rewards_read() -> None:
    specs = [{"numericAnswer": {"column": "b"}}, {"exactAnswer": {}}, {"length": {"target": 1}}]
    assert needed_columns([RewardSpec.model_validate(spec) for spec in specs]) == ("answer", "b")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"regex": {"pattern": "(a"}}, r"rewards\[0\]\.regex\.pattern is not a valid regular expression: missing \)"),
        ({"jsonSchema": {"schema": "{a"}}, r"rewards\[0\]\.jsonSchema\.schema is not JSON: .* in line 1"),
        (
            {"jsonSchema": {"schema": '{"type": "thing"}'}},
            r"rewards\[0\]\.jsonSchema\.schema is not a valid JSON Schema: 'thing'",
        ),
    ],
)
def test_what_cannot_be_used_is_named(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainerError, match=said) as refused:
        check([RewardSpec.model_validate(spec)])
    assert refused.value.code == ExitCode.ConfigInvalid
    assert refused.value.remedy


# --- the user's own -------------------------------------------------------------------------------------------------


def python_reward(**options: Any) -> RewardSpec:
    return RewardSpec.model_validate({"python": {"configMapRef": {"name": "judges", "key": "judge.py"}} | options})


def run_code(code: str, answers: list[Answer], folder: Path, **options: Any) -> list[float | None]:
    (folder / code_file(0)).write_text(code)
    with open_panel([python_reward(**options)], folder) as panel:
        return panel.rewards(answers)


def test_a_function_is_called_as_trl_calls_it(tmp_path: Path) -> None:
    code = (
        "def reward(prompts, completions, answer, **others):\n"
        "    print('seen', len(prompts))\n"
        "    assert prompts[0][0]['content'] == 'q'\n"
        "    assert others == {'level': [1, 2], 'completion_ids': [[0, 1, 2], [0]]}\n"
        "    return [float(c[0]['content'] == a) for c, a in zip(completions, answer)]\n"
    )
    answers = [answer("4", tokens=3, answer="4", level=1), answer("5", answer="6", level=2)]
    assert run_code(code, answers, tmp_path) == [1, 0]


def test_a_prompt_of_text_has_completions_of_text(tmp_path: Path) -> None:
    code = "def judge(prompts, completions):\n    return [len(p + c) for p, c in zip(prompts, completions)]\n"
    assert run_code(code, [answer("abc", prompt="de")], tmp_path, function="judge") == [5]


def test_a_function_that_names_its_arguments_may_leave_out_the_ids(tmp_path: Path) -> None:
    named = "def reward(completions, prompts, completion_ids):\n    return [len(ids) for ids in completion_ids]\n"
    assert run_code(named, [answer("a", tokens=4)], tmp_path) == [4]
    silent = "def judge(completions, prompts):\n    return [1]\nreward = __import__('functools').partial(judge)\n"
    assert run_code(silent, [answer("a", tokens=4)], tmp_path) == [1]


def test_a_reward_of_none_does_not_apply(tmp_path: Path) -> None:
    (tmp_path / code_file(0)).write_text(
        "def reward(completions, **_):\n    return [None if c[0]['content'] == 'pass' else 3 for c in completions]\n"
    )
    only, beside = [python_reward()], [python_reward(), RewardSpec.model_validate({"length": {"target": 1}})]
    with open_panel(only, tmp_path) as panel:
        assert panel.rewards([answer("pass"), answer("judged")]) == [None, 3]
    with open_panel(beside, tmp_path) as panel:
        assert panel.rewards([answer("pass"), answer("judged")]) == [1, 4]


def test_the_documented_function_judges(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENTED.read_text(), re.DOTALL)
    answers = [answer("It is 72.", answer="72"), answer("It is 7.", answer="72"), answer("No idea.", answer=None)]
    assert run_code(code, answers, tmp_path) == [1, 0, None]


def test_the_process_stays_between_calls(tmp_path: Path) -> None:
    (tmp_path / code_file(0)).write_text(
        "seen = []\ndef reward(completions, **_):\n    seen.append(1)\n    return [len(seen)]\n"
    )
    with open_panel([python_reward()], tmp_path) as panel:
        assert [panel.rewards([answer("a")]) for _ in range(3)] == [[1], [2], [3]]


def test_no_credentials_are_in_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    code = "import os\ndef reward(**_):\n    return [sum('secret' in value for value in os.environ.values())]\n"
    assert run_code(code, [answer("a")], tmp_path) == [0]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def reward(**_)\n    return []\n", "judges/judge.py line 1 failed with SyntaxError: expected ':'"),
        ("import nothing_like_it\n", "line 1 failed with ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def score(**_): ...\n", r"failed with LookupError: it defines no function reward \(found score\)"),
        ("reward = 3\n", "it defines no function reward"),
        ("raise SystemExit(3)\n", "line 1 failed with SystemExit: 3"),
        (
            "def check(c):\n    return 1 / 0\n\ndef reward(completions, **_):\n    return [check('')]\n",
            r"line 2 \(in check\) failed with ZeroDivisionError: division by zero",
        ),
        (
            "def reward(prompts):\n    return [1]\n",
            "failed with TypeError: reward.. got an unexpected keyword argument",
        ),
        ("def reward(**_):\n    return 1\n", "failed with TypeError: it returned int instead of a list of numbers"),
        ("def reward(**_):\n    return [1, 2]\n", "returned 2 rewards for 1 completions"),
        ("def reward(**_):\n    return ['1']\n", "returned '1' instead of a number or None for completion 0"),
        ("def reward(**_):\n    return [float('nan')]\n", "returned nan instead of a number or None for completion 0"),
        ("def reward(**_):\n    return [object()]\n", "failed with TypeError: Object of type object"),
        ("import os\ndef reward(**_):\n    os._exit(7)\n", "ended its process with exit code 7"),
        ("import os\ndef reward(**_):\n    os.kill(os.getpid(), 9)\n", "was killed by signal 9"),
    ],
)
def test_what_fails_is_named_by_file_line_and_function(code: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=said) as failed:
        run_code(code, [answer("a")], tmp_path)
    assert failed.value.code == ExitCode.RewardFailed
    assert "The reward function reward in judges/judge.py" in failed.value.message
    assert str(tmp_path) not in failed.value.message
    assert failed.value.remedy


def test_what_it_printed_before_it_failed_is_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "def reward(**_):\n    for number in range(5000):\n        print('line', number)\n    raise ValueError\n"
    with pytest.raises(TrainerError, match="ValueError"):
        run_code(code, [answer("a")], tmp_path)
    assert re.findall(r"^line (\d+)$", capfd.readouterr().err, re.MULTILINE) == [*map(str, range(5000))]


def test_a_call_that_takes_too_long_is_ended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import os, time\ndef reward(**_):\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n"
    began = time.monotonic()
    with pytest.raises(TrainerError, match="did not return within 1 s"):
        run_code(code, [answer("a")], tmp_path, timeoutSeconds=1)
    assert time.monotonic() - began < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(capfd.readouterr().err), 0)


# --- what prepare does ----------------------------------------------------------------------------------------------


def grpo_run(*rewards: dict[str, Any], **settings: Any) -> Any:
    return run_file(training={"method": "GRPO", "grpo": {"rewards": list(rewards)} | settings})


def mounted(folder: Path, code: str | None) -> Bucket:
    """A door to ConfigMaps, of which one has that code."""
    if code is not None:
        (folder / "judges").mkdir(parents=True)
        (folder / "judges/judge.py").write_text(code)
    return open_bucket(run_file().storage, config_map_root=folder)


PYTHON = {"python": {"configMapRef": {"name": "judges", "key": "judge.py"}}}
GOOD = "def reward(completions, **_):\n    return [0 for _ in completions]\n"


def test_code_is_not_run_where_its_libraries_may_be_missing(tmp_path: Path) -> None:
    code = "import nothing_like_it\n" + GOOD
    assert take_rewards(grpo_run(PYTHON), tmp_path, bucket=mounted(tmp_path / "mounted", code))


def test_the_code_is_taken_and_names_the_run(tmp_path: Path) -> None:
    run = grpo_run({"length": {"target": 3}}, PYTHON)
    (tmp_path / "set").mkdir()
    first = take_rewards(run, tmp_path / "set", bucket=mounted(tmp_path / "one", GOOD))
    assert (tmp_path / "set" / code_file(1)).read_text() == GOOD
    other = take_rewards(run, tmp_path / "set", bucket=mounted(tmp_path / "two", GOOD + "#"))
    assert first
    assert other
    assert first != other
    none = mounted(tmp_path / "none", None)
    assert take_rewards(grpo_run({"length": {"target": 3}}), tmp_path, bucket=none) is None
    assert take_rewards(run_file(), tmp_path, bucket=none) is None


@pytest.mark.parametrize(
    ("run", "code", "said", "how"),
    [
        (grpo_run(PYTHON), None, "no ConfigMap judges with a key judge.py", ExitCode.ConfigInvalid),
        (
            grpo_run(PYTHON),
            "def reward(",
            "judges/judge.py line 1 is not valid Python: '.' was never",
            ExitCode.RewardFailed,
        ),
        (grpo_run(PYTHON), "\0", "judges/judge.py is not text|null bytes", ExitCode.RewardFailed),
        (grpo_run(PYTHON), "def other(): ...", r"defines no function reward \(found other\)", ExitCode.RewardFailed),
        (grpo_run({"regex": {"pattern": "("}}), None, "is not a valid regular expression", ExitCode.ConfigInvalid),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    run: Any, code: str | None, said: str, how: ExitCode, tmp_path: Path
) -> None:
    with pytest.raises(TrainerError, match=said) as refused:
        take_rewards(run, tmp_path, bucket=mounted(tmp_path / "mounted", code))
    assert refused.value.code == how
