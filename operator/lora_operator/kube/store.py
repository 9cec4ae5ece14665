"""The informer's store: the newest known version of each object, found by key or by one index.

Watches can miss deletions (a relist after 410 sends no DELETED event), so a stored object may be gone. Final decisions
are made from live reads.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
Key = tuple[str, str]
"""Namespace (empty for cluster objects) and name."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    version: int
    value: T


class Store(Generic[T]):
    """Objects of one kind."""

    def __init__(self, index: Callable[[T], Hashable]) -> None:
        self._index = index
        self._entries: dict[Key, _Entry[T]] = {}
        self._groups: dict[Hashable, set[Key]] = {}

    def put(self, key: Key, version: int, value: T) -> None:
        """Store an object, unless a newer version of it is known."""
        before = self._entries.get(key)
        if before is not None and before.version > version:
            return
        self.drop(key)
        self._entries[key] = _Entry(version, value)
        self._groups.setdefault(self._index(value), set()).add(key)

    def drop(self, key: Key, *, version: int | None = None) -> T | None:
        """Remove an object and return it, unless a version newer than `version` is known.

        Another object may have the same name since, and watches report different objects in any order."""
        entry = self._entries.get(key)
        if entry is None or (version is not None and entry.version > version):
            return None
        del self._entries[key]
        group = self._index(entry.value)
        self._groups[group].discard(key)
        if not self._groups[group]:
            del self._groups[group]
        return entry.value

    def get(self, key: Key) -> T | None:
        """The object, or None."""
        entry = self._entries.get(key)
        return entry.value if entry is not None else None

    def of(self, group: Hashable) -> tuple[T, ...]:
        """All objects with this index value."""
        return tuple(self._entries[key].value for key in sorted(self._groups.get(group, ())))

    def keys_of(self, group: Hashable) -> frozenset[Key]:
        """Keys of all objects with this index value."""
        return frozenset(self._groups.get(group, ()))

    def versions(self, *, group: Hashable | None = None) -> dict[Key, int]:
        """The known version of every object (of a group)."""
        keys = self._entries if group is None else self.keys_of(group)
        return {key: self._entries[key].version for key in keys}

    def values(self) -> tuple[T, ...]:
        """All objects."""
        return tuple(entry.value for entry in self._entries.values())

    def items(self) -> tuple[tuple[Key, T], ...]:
        """All objects with their keys."""
        return tuple((key, entry.value) for key, entry in self._entries.items())

    def __len__(self) -> int:
        return len(self._entries)
