"""What a process that was forked takes over from the one that imported the libraries, and what not."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.fork_server import Preloaded, move, own_folder


def test_folders_that_libraries_noted_are_the_forked_processs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("library")
    noted = {"CACHE": "/warm/hub", "FOLDER": Path("/warm"), "ELSEWHERE": "/other/warm", "COUNT": 3}
    vars(library).update(noted)
    monkeypatch.setitem(sys.modules, "library", library)
    monkeypatch.setattr(sys, "path", ["/warm/compiled", "/lib"])
    for variable in ("SET_BY_A_LIBRARY", "FLAG"):
        monkeypatch.setenv(variable, "")
    move(Preloaded(scratch=Path("/warm"), variables={"SET_BY_A_LIBRARY": "/warm/x", "FLAG": "1"}), Path("/own"))
    assert {name: vars(library)[name] for name in noted} == {
        "CACHE": "/own/hub",
        "FOLDER": Path("/own"),
        "ELSEWHERE": "/other/warm",
        "COUNT": 3,
    }
    assert sys.path == ["/own/compiled", "/lib"]
    assert (os.environ["SET_BY_A_LIBRARY"], os.environ["FLAG"]) == ("/own/x", "1")


@pytest.mark.parametrize(
    "arguments",
    [("train", "--scratch", "/own", "--port", "1"), ("verify", "--scratch=/own"), ("x", "--scratch", "/own")],
)
def test_its_own_folder_is_the_stages_scratch(arguments: tuple[str, ...]) -> None:
    assert own_folder(arguments) == Path("/own")


def test_a_stage_without_scratch_has_a_new_folder() -> None:
    folder = own_folder(("export", "--folder", "/exports"))
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    folder.rmdir()
