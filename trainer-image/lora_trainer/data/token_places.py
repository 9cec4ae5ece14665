"""Where tokens stand in the text that they were made of. Pure.

An offset alone does not say which token holds a character: some tokenizers leave white space out of the offsets of the
word behind it, and some compose a character with the one before it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

start_of, end_of = itemgetter(0), itemgetter(1)


@dataclass(frozen=True, kw_only=True)
class TokenPlaces:
    """The tokens of one text."""

    text: str
    offsets: Sequence[tuple[int, int]]
    """[start, end) of each token."""

    def before(self, border: int) -> int:
        """How many leading tokens hold nothing of what stands at `border` and behind it."""
        count = bisect_right(self.offsets, border, key=end_of)
        following = self.offsets[count][0] if count < len(self.offsets) else len(self.text)
        if count and following > border and not self.text[border].isspace():
            # A character without a token of its own is in the token before it, which may be one of several of a byte.
            return bisect_left(self.offsets, self.offsets[count - 1][0], key=start_of)
        return count

    def until(self, border: int) -> int:
        """How many leading tokens hold something of what stands before `border`."""
        started = bisect_left(self.offsets, border, key=start_of)
        return max(started, bisect_right(self.offsets, border, key=end_of))
