"""Where tokens stand in the text that they were made of. Pure.

An offset alone does not say which token holds a character: some tokenizers leave white space out of the offsets of the
word behind it, and some compose a character with the one before it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


class TokenPlaces:
    """The tokens of one text."""

    def __init__(self, *, text: str, offsets: Sequence[tuple[int, int]]) -> None:
        self._text = text
        self._starts = [start for start, _ in offsets]
        self._ends = [end for _, end in offsets]

    def before(self, border: int) -> int:
        """How many leading tokens hold nothing of what stands at `border` and behind it."""
        count = bisect_right(self._ends, border)
        following = self._starts[count] if count < len(self._starts) else len(self._text)
        if count and following > border and not self._text[border].isspace():
            # A character without a token of its own is in the token before it, which may be one of several of a byte.
            return bisect_left(self._starts, self._starts[count - 1])
        return count

    def until(self, border: int) -> int:
        """How many leading tokens hold something of what stands before `border`."""
        return max(bisect_left(self._starts, border), bisect_right(self._ends, border))
