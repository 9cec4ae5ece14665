"""The settings of the operator's process: which namespaces it serves."""

from __future__ import annotations

from typing import Any

import kopf
import pytest
from lora_operator.__main__ import main
from lora_operator.kube.gateway import CLASSES, RUNS
from lora_operator.kube.scope import Scope
from lora_operator.settings import settings_from

WATCH, EXCLUDE = "LORA_OPERATOR_WATCH_NAMESPACES", "LORA_OPERATOR_EXCLUDE_NAMESPACES"


def test_all_namespaces_are_served_or_some_or_all_but_some() -> None:
    assert settings_from({}).scope == Scope()
    assert settings_from({WATCH: "b,a,b"}).scope == Scope(only=("b", "a"))
    assert settings_from({EXCLUDE: "a"}).scope == Scope(excluded=("a",))


@pytest.mark.parametrize(
    ("scope", "namespaces", "fields"),
    [
        (Scope(), (None,), ""),
        (Scope(only=("a", "b")), ("a", "b"), ""),
        (Scope(excluded=("a", "b")), (None,), "metadata.namespace!=a,metadata.namespace!=b"),
    ],
)
def test_classes_are_read_in_every_scope(scope: Scope, namespaces: tuple[str | None, ...], fields: str) -> None:
    assert (scope.namespaces(RUNS), scope.fields(RUNS)) == (namespaces, fields)
    assert (scope.namespaces(CLASSES), scope.fields(CLASSES)) == ((None,), "")


REFUSED = [
    ({WATCH: "a,"}, f"{WATCH}: Value error, '' is no namespace. Write names"),
    ({WATCH: ""}, f"{WATCH}: Value error, '' is no namespace. Write names"),
    ({EXCLUDE: "team-*"}, f"{EXCLUDE}: Value error, 'team-*' is no namespace"),
    ({EXCLUDE: "a" * 64}, f"{EXCLUDE}: Value error, '{'a' * 64}' is no namespace"),
    ({WATCH: "a", EXCLUDE: "b"}, f"{EXCLUDE}: Value error, {WATCH} leaves out all other namespaces"),
]


@pytest.mark.parametrize(("environment", "words"), REFUSED)
def test_an_operator_that_is_told_no_namespaces_does_not_start(
    environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main()
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("names", "watched"), [(None, (True, ())), ("a,b", (False, ("a", "b")))])
def test_kopf_watches_the_namespaces_that_are_served(
    names: str | None, watched: tuple[bool, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(kopf, "configure", lambda **_: None)
    monkeypatch.setattr(kopf, "run", lambda **arguments: started.append(arguments))
    if names is not None:
        monkeypatch.setenv(WATCH, names)
    main()
    assert [(each["clusterwide"], each["namespaces"]) for each in started] == [watched]
