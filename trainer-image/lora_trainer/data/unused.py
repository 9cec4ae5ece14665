"""Which columns and keys of the rows change nothing of what is trained. Pure; knows no shape, template or method.

A value is used where the row becomes another one, or an unusable one, once the value is changed. That is tried out on
the first rows in which a column or key stands, so the cost does not grow with the rows; what is not used is counted in
all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_trainer.contract.outcome import MAX_UNUSED_NAME, Unused, clip
from lora_trainer.data.columns import RowError
from lora_trainer.data.conversations import is_learned, role_of
from lora_trainer.errors import TrainerError

TRIALS = 3
"""Rows on which a column or key must change nothing to count as unused."""
MAX_PLACES = 1000
"""Columns and keys that are looked at; rows whose keys are data have more."""
MAX_DEPTH = 8
"""Levels below a column; what lies deeper is looked at as a whole."""
ANSWER = "[assistant]"
"""The name of answers in a list of messages."""
Path = tuple[str, ...]


@dataclass(slots=True)
class _Place:
    """A column, a key in it, or the messages of one role in it."""

    path: Path
    used: bool = False
    trials: int = 0
    rows: int = 0
    last: int = 0
    """The last row in which it was seen."""
    inner: dict[str, _Place] = field(default_factory=dict)


class UnusedValues:
    """Looks at the rows of one source, one after the other."""

    def __init__(self, draft: Callable[[Mapping[str, Any]], Any]) -> None:
        """`draft` makes of a record what is compared; it raises RowError where the record cannot be used."""
        self._draft = draft
        self._whole = _Place(path=(), used=True)
        self._places = 0
        self._rows = 0

    def look_at(self, record: Mapping[str, Any], made: Any) -> None:
        """Look at a record of which `made` was made."""
        self._rows += 1
        self._descend(self._whole, record, record, made)

    def found(self) -> tuple[Unused, ...]:
        """What was not used, in the order of its names."""
        unused = (Unused(name=clip(_name(place.path), MAX_UNUSED_NAME), rows=place.rows) for place in self._unused())
        return tuple(sorted(unused, key=lambda each: each.name))

    def _unused(self) -> Iterator[_Place]:
        left = [self._whole]
        while left:
            place = left.pop()
            if place.used:
                left += place.inner.values()
            else:
                yield place

    def _descend(self, place: _Place, value: Any, record: Mapping[str, Any], made: Any) -> None:
        known = place.inner
        for name, inner in named_values(value):
            at = known.get(name)
            if at is None or not at.used:
                at = self._noted(at, place, name, inner, record, made)
            if at and at.used and isinstance(inner, dict | list) and len(at.path) < MAX_DEPTH:
                self._descend(at, inner, record, made)

    def _noted(
        self, at: _Place | None, place: _Place, name: str, value: Any, record: Mapping[str, Any], made: Any
    ) -> _Place | None:
        """The place of a value that is not known as used, counted and tried; None where no value is in it."""
        if value is None or (isinstance(value, dict | list) and not value):
            return None
        if at is None:
            if self._places == MAX_PLACES:
                return None
            self._places += 1
            at = place.inner[name] = _Place(path=(*place.path, name))
        if at.last != self._rows:
            at.last, at.rows = self._rows, at.rows + 1
            if at.trials < TRIALS:
                at.trials += 1
                at.used = self._changes(record, at.path, made)
        return at

    def _changes(self, record: Mapping[str, Any], path: Path, made: Any) -> bool:
        """Whether a change of all values at a path changes what is made of the record."""
        try:
            return self._draft(_changed_at(record, path)) != made
        except (RowError, TrainerError):
            return True


def merged(found: Iterable[Iterable[Unused]]) -> tuple[Unused, ...]:
    """What was not used in several sources, in the order of its names."""
    rows: dict[str, int] = {}
    for each in (each for source in found for each in source):
        rows[each.name] = rows.get(each.name, 0) + each.rows
    return tuple(Unused(name=name, rows=rows[name]) for name in sorted(rows))


def named_values(value: Any) -> Iterable[tuple[str, Any]]:
    """The values in an object or a list by their names. Elements of a list are named alike, messages by their role."""
    if isinstance(value, Mapping):
        return value.items()
    return zip(_named_elements(value), value, strict=True) if isinstance(value, list) else ()


def _named_elements(elements: Sequence[Any]) -> list[str]:
    names = [f"[{_role(element)}]" for element in elements]
    answers = (index for index in range(len(names) - 1, -1, -1) if names[index] == ANSWER)
    last = next((index for index in answers if is_learned(elements[index])), len(names) - 1)
    after = [f"{name[:-1]} after the last answer]" if name != "[]" else name for name in names[last + 1 :]]
    return names[: last + 1] + after


def _role(element: Any) -> str:
    if not isinstance(element, dict):
        return ""
    role = role_of(element.get("role") or element.get("from"))
    return role if isinstance(role, str) else ""


def _name(path: Path) -> str:
    """The path in the words of a status. A column may have no name, as the index that pandas writes into CSV."""
    first, *others = path
    return (first or '""') + "".join(part if part.startswith("[") else f".{part}" for part in others)


def _changed_at(value: Any, path: Path) -> Any:
    if not path:
        return _changed(value)
    changed = [inner if name != path[0] else _changed_at(inner, path[1:]) for name, inner in named_values(value)]
    return dict(zip(value, changed, strict=True)) if isinstance(value, Mapping) else changed


def _changed(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Another value of the same kind, with every value in it changed."""
    match value:
        case None:
            return None
        case bool():
            return not value
        case int() | float():
            return 0 if value else 1
        case Mapping() if depth:
            return {name: _changed(inner, depth - 1) for name, inner in value.items()}
        case list() if depth:
            return [_changed(inner, depth - 1) for inner in value]
        case _:
            return f"{value}x"
