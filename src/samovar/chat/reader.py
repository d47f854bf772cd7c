"""Text that is read forward as it comes, by generators that yield where they need more of it.

What a primitive decides depends on the text alone, never on how it came in pieces: it waits until
no more text could change its mind. Each looks at every character a bounded number of times.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]
"""A read in progress; a `yield` asks for more text, or for the news that there is none."""

_BLANK = re.compile(r"\s*")


class MismatchError(Exception):
    """The text is not what this place asks for."""


@dataclass(frozen=True)
class Quoting:
    """How texts are quoted in a bracketed value, so that brackets in them do not count."""

    quotes: tuple[str, ...]
    escapes: bool = True
    """Whether a backslash takes the meaning of the character behind it."""

    @cached_property
    def outside(self) -> re.Pattern[str]:
        """What matters outside of a quoted text: quotes and brackets."""
        return re.compile("|".join([*map(re.escape, self.quotes), r"[\[\](){}]"]))

    @cached_property
    def inside(self) -> dict[str, re.Pattern[str]]:
        """What matters within one, by its quote: its end, and a backslash with what it escapes."""
        escaped = r"\\[\s\S]|" if self.escapes else ""
        return {quote: re.compile(escaped + re.escape(quote)) for quote in self.quotes}

    def unsure(self, text: str) -> int:
        """How many characters at the end of `text` may be half of what matters."""
        return max(max(map(len, self.quotes)) - 1, int(self.escapes and text.endswith("\\")))


class Reader:
    """The text that has come and has not been read, and what was read since `begin`."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._taken: list[str] = []
        self.has_ended = False

    def feed(self, text: str) -> None:
        """More text."""
        self._text, self._at = self._text[self._at :] + text, 0

    def begin(self) -> None:
        """Forget what was read: it has become something."""
        self._taken.clear()

    @property
    def taken(self) -> str:
        """What was read since `begin`."""
        return "".join(self._taken)

    @property
    def left(self) -> int:
        """Characters that have come and have not been read."""
        return len(self._text) - self._at

    def take(self, size: int) -> str:
        """Read so many characters of those that are there."""
        text = self._text[self._at : self._at + max(0, size)]
        self._at += len(text)
        if text:
            self._taken.append(text)
        return text

    def search(self, pattern: re.Pattern[str]) -> tuple[int, str] | None:
        """Where a pattern matches what is left, and what; the place counts from what comes next."""
        match = pattern.search(self._text, self._at)
        return None if match is None else (match.start() - self._at, match[0])

    def tail(self, size: int) -> str:
        """At most so many characters of the end of what is left."""
        return self._text[max(self._at, len(self._text) - size) :] if size else ""

    def blanks(self) -> Reading[str]:
        """Read white space, as much as there is."""
        pieces: list[str] = []
        while True:
            pieces.append(self.take(self._blanks_at(self._at)))
            if self.left or self.has_ended:
                return "".join(pieces)
            yield

    def _blanks_at(self, at: int) -> int:
        match = _BLANK.match(self._text, at)
        return 0 if match is None else match.end() - at

    def literal(self, text: str) -> Reading[bool]:
        """Read `text` if it comes next, else nothing."""
        return (yield from self.first_of((text,))) is not None

    def first_of(self, texts: Sequence[str]) -> Reading[str | None]:
        """Read the longest of some texts that comes next; None, and nothing read, if none does."""
        found = yield from self.next_of(texts)
        return None if found is None else self.take(len(found))

    def next_of(self, texts: Sequence[str]) -> Reading[str | None]:
        """The longest of some texts that comes next, or None; it is not read."""
        while not self.has_ended and self._may_grow(self._at, texts):
            yield
        found = [text for text in texts if self._text.startswith(text, self._at)]
        return max(found, key=len, default=None)

    def take_rest(self, of: str) -> bool:
        """Read the end of all text, if it has come and is nothing or the beginning of `of`."""
        is_rest = self.has_ended and of.startswith(self._text[self._at :])
        if is_rest:
            self.take(self.left)
        return is_rest

    def _may_grow(self, at: int, into: Sequence[str]) -> bool:
        size = len(self._text) - at
        return any(len(text) > size and self._text.startswith(text[:size], at) for text in into)

    def followed_by(self, text: str, followers: Sequence[str]) -> Reading[bool]:
        """Whether one of `followers`, or the end, comes behind `text` and blanks. Reads nothing."""
        while True:
            behind = self._at + len(text)
            behind += self._blanks_at(behind)
            if self._text.startswith(tuple(followers), behind):
                return True
            if self.has_ended:
                return behind == len(self._text)
            if not self._may_grow(behind, followers):
                return False
            yield

    def before(self, text: str) -> Reading[str]:
        """Read up to `text`, which is left. Raises MismatchError if it never comes."""
        pieces: list[str] = []
        while (end := self._text.find(text, self._at)) < 0:
            if self.has_ended:
                raise MismatchError
            pieces.append(self.take(self.left - len(text) + 1))
            yield
        pieces.append(self.take(end - self._at))
        return "".join(pieces)

    def through(self, text: str) -> Reading[str]:
        """Read up to and with `text`, and give what is before it."""
        found = yield from self.before(text)
        self.take(len(text))
        return found

    def bracketed(self, quoting: Quoting, depth: int) -> Reading[str]:
        """Read the rest of a value with `depth` brackets open, to the one that closes the first.

        Which bracket closes which is not looked at: the value is checked when it is converted.
        """
        pieces: list[str] = []
        quote = ""
        while True:
            match = self.search(quoting.inside[quote] if quote else quoting.outside)
            if match is None:
                if self.has_ended:
                    raise MismatchError
                pieces.append(self.take(self.left - quoting.unsure(self.tail(1))))
                yield
                continue
            at, found = match
            pieces.append(self.take(at + len(found)))
            if quote:
                quote = "" if found == quote else quote
            elif found in quoting.quotes:
                quote = found
            else:
                depth += 1 if found in "[({" else -1
                if depth == 0:
                    return "".join(pieces)
