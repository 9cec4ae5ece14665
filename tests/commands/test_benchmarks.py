"""Every `python -m benchmarks.X` says how it is used, and takes the fewest arguments that it can be given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.arguments import TAKEN
from tests.commands.starting import parse, python_of, run, source_of
from tests.runner.suites import REPOSITORY

BARE = "benchmarks.bare_trainer"
"""What a notebook holds: nothing stands before its import of Unsloth."""
FEWEST: dict[str, list[tuple[str, ...]]] = {
    "benchmarks.bare_trainer": [("--model", ".", "--rows", "rows", "--folder", ".", "--settings", "{}")],
    "benchmarks.demo": [()],
    "benchmarks.gpu": [("measure", "--tokenizer", "."), ("table",)],
    "benchmarks.gpu_peers": [("hf-packed", "--model", ".", "--rows", "rows", "--folder", ".", "--steps", "1")],
    "benchmarks.gpu_profile": [("--tokenizer", ".")],
    "benchmarks.gpus": [("--tokenizer", ".")],
    "benchmarks.load": [(), ("steady",), ("burst", "scale")],
    "benchmarks.oom": [()],
    "benchmarks.quality": [()],
    "benchmarks.sweep": [("--tokenizer", ".")],
    "benchmarks.trainer": [()],
    "benchmarks.verification": [("--model", ".")],
    "benchmarks.vram": [("measure", "--tokenizer", "."), ("context", "--tokenizer", ".")],
    "benchmarks.vram_fit": [()],
}


def programs() -> set[str]:
    """The modules that may be run."""
    files = [file for file in (REPOSITORY / "benchmarks").rglob("*.py") if '__name__ == "__main__"' in file.read_text()]
    return {_module(file.relative_to(REPOSITORY)) for file in files}


def _module(file: Path) -> str:
    return ".".join(part for part in file.with_suffix("").parts if part != "__main__")


def test_every_benchmark_is_tested() -> None:
    assert set(FEWEST) == programs()


@pytest.mark.parametrize(("module", "arguments"), sorted((module, few) for module in FEWEST for few in FEWEST[module]))
def test_it_says_how_it_is_used_and_takes_the_fewest_arguments(module: str, arguments: tuple[str, ...]) -> None:
    done = parse(python_of(module), module, arguments)
    assert done.returncode == 0, done.stdout
    assert "usage:" in done.stdout
    assert TAKEN in done.stdout


def test_help_is_no_measurement() -> None:
    done = run([python_of("benchmarks.vram_fit"), "-m", "benchmarks.vram_fit", "--help"])
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("usage:")
    assert "bytes per" not in done.stdout


def test_a_part_that_is_none_is_refused_by_name() -> None:
    done = parse(python_of("benchmarks.load"), "benchmarks.load", ("nothing",))
    assert done.returncode == 2
    assert "nothing is none of burst, steady, finished, scale" in done.stdout


@pytest.mark.parametrize("module", sorted(FEWEST.keys() - {BARE}))
def test_nothing_heavy_is_imported_before_the_arguments_are_read(module: str) -> None:
    heavy = {f"{statement} {name}" for statement in ("import", "from") for name in ("torch", "unsloth", "transformers")}
    lines = source_of(module).read_text().splitlines()
    assert [line for line in lines if " ".join(line.split()[:2]) in heavy and not line.startswith(" ")] == []
