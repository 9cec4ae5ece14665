"""A demo that fails says which step, why, and what to run next."""

from __future__ import annotations

import subprocess

import pytest
from rich.console import Console

from tests.cluster.commands import ClusterError, RequirementError
from tests.demo.failures import AGAIN, told
from tests.demo.timings import Timings


def failing(*steps: tuple[str, Exception]) -> Timings:
    timings = Timings(console=Console(quiet=True))
    for name, cause in steps:
        with pytest.raises(type(cause)), timings.part(name):
            raise cause
    return timings


def test_the_step_its_reason_and_the_next_command_are_told() -> None:
    cause = ClusterError("buildah is gone.")
    text = told(cause, failed=failing(("images", cause)).failed)
    assert text == f"Step `images` failed: buildah is gone.\nNext: run `make demo` again. {AGAIN}"


def test_steps_that_ran_side_by_side_are_both_told() -> None:
    first, second = ClusterError("no network."), ClusterError("no room.")
    text = told(first, failed=failing(("cluster programs", first), ("images", second)).failed)
    assert text.splitlines()[:2] == ["Step `cluster programs` failed: no network.", "Step `images` failed: no room."]


def test_what_the_machine_lacks_comes_before_the_next_try() -> None:
    cause = RequirementError("`demo` needs root: run it with sudo.")
    assert told(cause, failed={}) == f"{cause}\nNext: do what is said above, then run `make demo`. {AGAIN}"


def test_a_failed_run_names_the_command_that_shows_it() -> None:
    cause = TimeoutError("waited in vain")
    text = told(cause, failed={"LoraFineTune": cause}, look="kubectl describe lft x")
    assert "Next: run `kubectl describe lft x` to see more, then `make demo`." in text


def test_a_command_that_failed_is_named_as_one_would_type_it() -> None:
    cause = subprocess.CalledProcessError(2, ["uv", "pip", "a b"])
    assert "Step `model and rows` failed: `uv pip 'a b'` ended with exit code 2" in told(
        cause, failed={"model and rows": cause}
    )


def test_a_part_that_ends_well_has_its_time_and_no_failure() -> None:
    timings = Timings(console=Console(quiet=True))
    with timings.part("cluster"):
        pass
    assert list(timings.parts) == ["cluster"]
    assert timings.failed == {}
