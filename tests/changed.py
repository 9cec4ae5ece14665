"""`python -m tests.changed --base REF --out FILE`: select what the changes since REF can reach (`make test CHANGED=1`).

A changed module reaches every test file that imports it, directly or through others. What imports do not show is in
tests/unseen.py: which modules start others as processes, and which tests read which other files. A file that is unknown
selects everything. Changes are those of the branch since it left REF, and what is not committed yet.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

import grimp

from tests.runner import selection
from tests.runner.selection import Selection
from tests.runner.suites import REPOSITORY, SUITES, is_below
from tests.unseen import READERS, STARTS, UNCHECKED

SOURCES = {"operator/": ("lora_operator",), "trainer-image/": ("lora_trainer",), "": ("benchmarks", "tests")}
"""Packages, by the folder that holds them."""


def main() -> None:
    """Select, say what and why, and write it."""
    parser = argparse.ArgumentParser(prog="python -m tests.changed", description="Select what a change can reach.")
    parser.add_argument("--base", default="origin/main", help="what the changes are counted from")
    parser.add_argument("--out", type=Path, required=True, help="file for what is selected")
    options = parser.parse_args()
    graph = import_graph()
    reached = {file: reach(file, graph=graph) for file in changes(options.base)}
    for file, tests in reached.items():
        print(f"{file}: {'everything' if tests is None else f'{len(tests)} test files'}")
    selection.write(select(reached), options.out)


def changes(base: str, *, repository: Path = REPOSITORY) -> list[str]:
    """The files that differ from where the branch left `base`, also those that git does not know yet."""

    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", *words], cwd=repository, stdout=subprocess.PIPE, text=True, check=True)
        return [line for line in done.stdout.split("\0") if line]

    (left,) = git("merge-base", base, "HEAD")
    differing = git("diff", "-z", "--name-only", "--no-renames", left.strip())
    return sorted({*differing, *git("ls-files", "-z", "--others", "--exclude-standard")})


def import_graph() -> grimp.ImportGraph:
    """What imports what, with pytest's conftest files and the programs that are started."""
    graph = grimp.build_graph("lora_operator", "lora_trainer", "tests", "benchmarks", cache_dir=None)
    for module in sorted(graph.modules):
        package, _, name = module.rpartition(".")
        while name.startswith("test_") and package:
            if f"{package}.conftest" in graph.modules:
                graph.add_import(importer=module, imported=f"{package}.conftest")
            package = package.rpartition(".")[0]
    for starter, patterns in STARTS.items():
        for program in sorted(graph.modules):
            if any(fnmatch(program, pattern) for pattern in patterns):
                graph.add_import(importer=starter, imported=program)
    return graph


def reach(file: str, *, graph: grimp.ImportGraph) -> set[str] | None:
    """The test files that a change of this file can reach; None for all there may be."""
    for pattern, readers in READERS.items():
        if fnmatch(file, pattern):
            return {test for test in files_of_tests() if is_below(test, readers)}
    module = module_of(file)
    if module is None or module not in graph.modules:
        return None
    package = file.endswith("/__init__.py")
    reached = graph.find_downstream_modules(module, as_package=package) | {module}
    if package:
        reached |= graph.find_descendants(module)
    tests = {test for test in files_of_tests() if module_of(test) in reached}
    return tests or None


def module_of(file: str) -> str | None:
    """The module that a file holds."""
    for folder, packages in SOURCES.items():
        inside = file.removeprefix(folder)
        if file.startswith(folder) and inside.endswith(".py") and inside.split("/")[0] in packages:
            return inside.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return None


NEEDED = {
    "system-packages": ("test-cluster", "test-cluster-alone"),
    "programs": ("test-cluster", "test-cluster-alone", "test-trainer", "test-trainer-quick"),
}
"""Targets that run no tests, and those that need them first."""


def files_of_tests() -> list[str]:
    """All of them."""
    return sorted(str(file.relative_to(REPOSITORY)) for file in (REPOSITORY / "tests").rglob("test_*.py"))


def select(reached: dict[str, set[str] | None]) -> Selection:
    """What is run, where these changes reach these test files."""
    everything = any(tests is None for tests in reached.values())
    files = {test for tests in reached.values() for test in tests or ()}
    suites: dict[str, list[str] | None] = {}
    for suite in SUITES:
        mine = sorted(file for file in files if suite.has(file))
        suites[suite.name] = None if everything else mine
    targets = {suite.target for suite in SUITES if suites[suite.name] != []}
    if everything or _any_checked(reached):
        targets.add("check")
    targets |= {needed for needed, by in NEEDED.items() if targets & set(by)}
    return Selection(targets=sorted(targets), suites=suites)


def _any_checked(files: Iterable[str]) -> bool:
    return any(not any(fnmatch(file, pattern) for pattern in UNCHECKED) for file in files)


if __name__ == "__main__":
    main()
