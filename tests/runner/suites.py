"""The table of pytest's processes: which environment, which files, which options, and the make target that runs each.

Standard library only, as all of this package: it runs before any environment exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = ".venv/bin/python"
TRAINER_PYTHON = ".venv-trainer/bin/python"
SLOWEST = ("--durations", "12")

QUICK_TRAINER_FILES = (
    "tests/trainer/test_callbacks.py",
    "tests/trainer/test_chat_templates.py",
    "tests/trainer/test_checkpoints.py",
    "tests/trainer/test_compile_cache.py",
    "tests/trainer/test_curves.py",
    "tests/trainer/test_delivery.py",
    "tests/trainer/test_device_errors.py",
    "tests/trainer/test_libraries.py",
    "tests/trainer/test_memory_fit.py",
    "tests/trainer/test_packing.py",
    "tests/trainer/test_prepare.py",
    "tests/trainer/test_publish.py",
    "tests/trainer/test_worker_processes.py",
    # One training: a small run that diverges, from prepare to the end that the operator is told.
    "tests/trainer/test_diverged.py",
)
"""What `make test-quick` runs of tests/trainer: files that train nothing, and one that does. Together two minutes."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One process of pytest (which may have workers)."""

    name: str
    target: str
    """The make target that runs it, perhaps with others before and after."""
    paths: tuple[str, ...]
    """Folders and files, relative to the repository."""
    python: str = PYTHON
    options: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    """Files below `paths` that another suite runs."""

    def command(self, tests: tuple[str, ...] | None = None) -> list[str]:
        """Run all of it, or only the files, folders or tests that are named."""
        ignored = [option for path in self.apart for option in ("--ignore", path)]
        chosen = [*ignored, *self.paths] if tests is None else list(tests)
        return [self.python, "-m", "pytest", "-q", *self.options, *chosen]

    def has(self, file: str) -> bool:
        """Whether it runs the tests of this file."""
        return is_below(file, self.paths) and not is_below(file, self.apart)


def is_below(file: str, paths: tuple[str, ...]) -> bool:
    """Whether a file is one of these, or in one of these folders."""
    return any(file == path or file.startswith(f"{path}/") for path in paths)


SUITES = (
    Suite(name="unit", target="test-unit", paths=("tests/unit", "tests/golden"), options=("-n", "auto")),
    # More workers than most machines have processors: the tests mostly wait for the operator, and it for time to pass.
    Suite(name="component", target="test-component", paths=("tests/component",), options=("-n", "4")),
    Suite(name="commands", target="test-commands", paths=("tests/commands",), options=("-n", "auto")),
    Suite(
        name="trainer",
        target="test-trainer",
        paths=("tests/trainer",),
        python=TRAINER_PYTHON,
        options=(*SLOWEST, "-n", "2", "--no-loadscope-reorder"),
    ),
    Suite(
        name="trainer-quick",
        target="test-trainer-quick",
        paths=QUICK_TRAINER_FILES,
        python=TRAINER_PYTHON,
        options=("-n", "2", "--no-loadscope-reorder"),
    ),
    Suite(
        name="cluster",
        target="test-cluster",
        paths=("tests/cluster",),
        options=(*SLOWEST, "-n", "5", "--dist", "loadfile", "--no-loadscope-reorder"),
        apart=("tests/cluster/test_queues.py",),
    ),
    Suite(
        name="redteam",
        target="test-cluster",
        paths=("tests/redteam",),
        options=(*SLOWEST, "-n", "3", "--dist", "loadfile"),
    ),
    # These have the cluster to themselves, and mostly wait.
    Suite(name="queues", target="test-cluster-alone", paths=("tests/cluster/test_queues.py",)),
    Suite(name="outages", target="test-cluster-alone", paths=("tests/outages",)),
    Suite(name="install", target="test-cluster-alone", paths=("tests/install",)),
    Suite(name="kubectl", target="test-cluster", paths=("tests/kubectl",)),
    Suite(name="fuzz", target="test-cluster", paths=("tests/fuzz",)),
)


def make(target: str) -> list[str]:
    """The command that runs a make target."""
    return ["make", "--no-print-directory", target]


def suites_of(target: str) -> tuple[Suite, ...]:
    """What a make target runs, in order; nothing where it runs no tests."""
    return tuple(suite for suite in SUITES if suite.target == target)
