"""Stop strings, found wherever they lie across pieces of text, and kept out of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec


class Passed(msgspec.Struct, frozen=True):
    """Text that cannot become part of a stop string any more, and the stop string that ended it."""

    text: str
    stop: str | None = None


class StopStrings:
    """Lets text through, but for what may be the beginning of a stop string.

    The one that is complete first wins, and of two that end together the longer one; nothing after
    it is let through. However a text is cut into pieces, the same text passes and the same stop is
    found.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        shortest_first = sorted(set(stops), key=len)
        kept: list[str] = []
        for stop in shortest_first:
            # One that begins with another can never be seen whole: the other ends the text first.
            if not any(stop.startswith(other) for other in kept):
                kept.append(stop)
        self.is_empty = not kept
        """Whether there are none, and every text passes as it is."""
        self._pattern = re.compile("|".join(map(re.escape, kept))) if kept else None
        self._stops = tuple(kept)
        self._firsts = frozenset(stop[0] for stop in kept)
        self._longest = max(map(len, kept), default=0)
        self._held = ""
        self._found: str | None = None

    def feed(self, piece: str) -> Passed:
        """More text. After a stop string was found everything is swallowed."""
        if self._pattern is None:
            return Passed(piece)
        if self._found is not None:
            return Passed("", self._found)
        text = self._held + piece
        match = self._first(text)
        if match is not None:
            self._found, self._held = match[0], ""
            return Passed(text[: match.start()], self._found)
        cut = len(text) - self._beginning(text)
        self._held = text[cut:]
        return Passed(text[:cut])

    def flush(self) -> str:
        """What was held back: no stop string came of it."""
        text, self._held = self._held, ""
        return text

    def _first(self, text: str) -> re.Match[str] | None:
        """The match that is complete first, as it is when the text comes letter by letter."""
        assert self._pattern is not None
        best: re.Match[str] | None = None
        for match in _overlapping(self._pattern, text):
            if best is None or match.end() < best.end():
                best = match
        return best

    def _beginning(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a stop string."""
        for size in range(min(len(text), self._longest - 1), 0, -1):
            if text[-size] not in self._firsts:
                continue
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0


def _overlapping(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The first match, and those further on that end no later than it."""
    found: list[re.Match[str]] = []
    start, end = 0, len(text)
    while (match := pattern.search(text, start, end)) is not None:
        found.append(match)
        start, end = match.start() + 1, min(end, match.end())
    return found
