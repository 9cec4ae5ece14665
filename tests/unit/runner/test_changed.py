"""What changes select, on the repository itself: by imports, by what is started, and by what reads a file."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import grimp
import pytest

from tests.changed import changes, files_of_tests, import_graph, module_of, reach, select
from tests.runner.suites import REPOSITORY, SUITES
from tests.unseen import READERS, STARTS

TRAINERS = "tests/trainer/"


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return import_graph()


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return [file for file in done.stdout.splitlines() if (REPOSITORY / file).exists()]


@pytest.mark.parametrize(
    ("file", "reached", "not_reached"),
    [
        # A leaf of the operator: its own tests, whatever runs the operator, and no trainer.
        (
            "operator/lora_operator/planning/deadline.py",
            ["tests/unit/operator/test_plan_failures.py", "tests/component/test_stuck.py", "tests/fuzz/test_fuzz.py"],
            ["tests/trainer/test_train.py", "tests/unit/trainer/test_rows.py", "tests/unit/test_spdx.py"],
        ),
        # The trainer: its own tests, and the images of the cluster; the operator knows nothing of it.
        (
            "trainer-image/lora_trainer/packing.py",
            ["tests/trainer/test_train.py", "tests/unit/trainer/test_packing.py", "tests/cluster/test_training.py"],
            ["tests/component/test_stuck.py", "tests/unit/operator/test_gates.py"],
        ),
        # What they agree on reaches both.
        (
            "trainer-image/lora_trainer/contract/exits.py",
            ["tests/trainer/test_train.py", "tests/component/test_stuck.py", "tests/unit/contract/test_contract.py"],
            ["tests/unit/test_spdx.py"],
        ),
        (
            "manifests/argocd/settings/actions.yaml",
            ["tests/install/test_argocd.py", "tests/unit/operator/test_gitops.py"],
            ["tests/component/test_stuck.py", "tests/trainer/test_train.py"],
        ),
        ("docs/contributing/speed.md", ["tests/commands/test_documents.py"], ["tests/unit/operator/test_gates.py"]),
        ("requirements/trainer-dev.txt", ["tests/trainer/test_train.py"], ["tests/component/test_stuck.py"]),
        ("tests/support/toxiproxy.py", ["tests/trainer/test_store_outages.py"], ["tests/unit/operator/test_gates.py"]),
        ("benchmarks/load/burst.py", ["tests/commands/test_make.py"], ["tests/trainer/test_train.py"]),
        ("tests/trainer/conftest.py", ["tests/trainer/test_train.py"], ["tests/unit/trainer/test_rows.py"]),
        ("tests/unit/test_spdx.py", ["tests/unit/test_spdx.py"], ["tests/unit/test_promql.py"]),
    ],
)
def test_a_change_reaches_what_depends_on_it(
    graph: grimp.ImportGraph, file: str, reached: list[str], not_reached: list[str]
) -> None:
    found = reach(file, graph=graph)
    assert found is not None
    assert set(reached) - found == set()
    assert found & set(not_reached) == set()


@pytest.mark.parametrize(
    "file", ["pyproject.toml", "requirements/dev.txt", "new-folder/new.bin", "operator/lora_operator/removed.py"]
)
def test_a_file_of_which_nothing_is_known_selects_everything(graph: grimp.ImportGraph, file: str) -> None:
    assert reach(file, graph=graph) is None
    everything = select({file: None, "docs/contributing/speed.md": set()})
    assert set(everything.suites.values()) == {None}
    assert {"check", "system-packages", "programs", *(suite.target for suite in SUITES)} == set(everything.targets)


def test_a_part_without_tests_is_not_run() -> None:
    chosen = select({"docs/contributing/speed.md": {"tests/unit/docs/test_reference.py"}})
    assert chosen.targets == ["test-unit"]
    assert chosen.tests("unit") == ("tests/unit/docs/test_reference.py",)
    assert chosen.tests("trainer") == ()


def test_code_is_checked_even_where_no_test_sees_it() -> None:
    assert select({"tests/unit/test_spdx.py": {"tests/unit/test_spdx.py"}}).targets == ["check", "test-unit"]
    assert select({}).targets == []


def test_a_cluster_needs_its_packages_and_programs() -> None:
    chosen = select({"docs/tasks/install.md": {"tests/install/test_documents.py"}})
    assert chosen.targets == ["programs", "system-packages", "test-cluster-alone"]
    assert chosen.tests("install") == ("tests/install/test_documents.py",)
    assert chosen.tests("cluster") == ()


def test_changes_are_those_of_the_branch_and_what_is_not_committed(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        names = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", *names, *words], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)

    def write(*files: str) -> None:
        for file in files:
            (tmp_path / file).write_text(file)

    git("init", "-q", "-b", "main")
    write("old", "edited", "moved", ".gitignore")
    git("add", ".")
    git("commit", "-q", "-m", "before")
    git("switch", "-q", "-c", "branch")
    write("committed")
    git("add", ".")
    git("mv", "moved", "moved here")
    git("commit", "-q", "-m", "after")
    git("switch", "-q", "main")
    write("of-others")
    git("add", ".")
    git("commit", "-q", "-m", "meanwhile")
    git("switch", "-q", "branch")
    write("new")
    (tmp_path / "edited").write_text("otherwise")
    assert changes("main", repository=tmp_path) == ["committed", "edited", "moved", "moved here", "new"]


def test_patterns_fit_files_that_are_there() -> None:
    files = tracked()
    assert [pattern for pattern in READERS if not any(fnmatch(file, pattern) for file in files)] == []


def test_readers_are_there() -> None:
    assert [path for readers in READERS.values() for path in readers if not (REPOSITORY / path).exists()] == []


def test_starters_and_what_they_start_are_there(graph: grimp.ImportGraph) -> None:
    assert STARTS.keys() - graph.modules == set()
    patterns = {pattern for started in STARTS.values() for pattern in started}
    assert [pattern for pattern in patterns if not any(fnmatch(module, pattern) for module in graph.modules)] == []


def test_every_module_that_is_started_by_name_is_known_to_be(graph: grimp.ImportGraph) -> None:
    unknown: list[tuple[str, str]] = []
    for file in tracked():
        starter = module_of(file)
        if starter in graph.modules and starter:
            for name in re.findall(r'"-m",\s*"([\w.]+)"', (REPOSITORY / file).read_text()):
                program = f"{name}.__main__" if f"{name}.__main__" in graph.modules else name
                if program in graph.modules and program != starter and not _imports(graph, starter, program):
                    unknown.append((starter, program))
    assert [(starter, program) for starter, program in unknown if not starter.startswith("benchmarks.")] == []


def _imports(graph: grimp.ImportGraph, starter: str, program: str) -> bool:
    return program in graph.find_upstream_modules(starter)


def test_every_test_file_is_found() -> None:
    assert "tests/unit/runner/test_changed.py" in files_of_tests()
    assert all(module_of(file) for file in files_of_tests())
