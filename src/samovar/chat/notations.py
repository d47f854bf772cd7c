"""Values in notations that are not JSON: Python's, and Gemma's with its quotes and bare keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import ClassVar

from samovar.chat.messages import MAX_DEPTH, Json
from samovar.chat.reader import MismatchError, Quoting

PYTHON_QUOTING = Quoting(("'", '"'))
BARE_QUOTING = Quoting(('<|"|>',), escapes=False)

_BLANK = re.compile(r"\s*")
_NUMBER = re.compile(r"-?(?:\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_WORD = re.compile(r"[A-Za-z_]\w*")
_CONSTANTS = {"True": True, "False": False, "None": None, "true": True, "false": False}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|\n|[\s\S])")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "", "a": "\a", "v": "\v"}


class Notation:
    """A text, read at any place: each reader gives what is there and where it ends."""

    closers: ClassVar[dict[str, str]] = {"[": "]", "{": "}"}

    def __init__(self, text: str) -> None:
        self.text = text

    def past(self, at: int) -> int:
        """The first place from `at` on that is not blank."""
        match = _BLANK.match(self.text, at)
        return at if match is None else match.end()

    def value(self, at: int, depth: int) -> tuple[Json, int]:
        """Any value."""
        at = self.past(at)
        if depth > MAX_DEPTH:
            raise MismatchError
        opener = self.text[at : at + 1]
        if opener == "{":
            return self.mapping(at, "}", self.key, ":", depth)
        if opener in self.closers:
            return self._sequence(at, self.closers[opener], depth)
        found = self.quoted(at)
        return found if found is not None else self._scalar(at)

    def mapping(  # the depth is that of what holds it
        self, at: int, closer: str, key: Callable[[int], tuple[str, int]], colon: str, depth: int
    ) -> tuple[dict[str, Json], int]:
        """Keys and values from an opening bracket at `at` to the closing one."""
        members: dict[str, Json] = {}
        at = self.past(at + 1)
        while not self.text.startswith(closer, at):
            name, at = key(at)
            at = self.expect(at, colon)
            members[name], at = self.value(at, depth + 1)
            at = self.separated(at, closer)
        return members, at + len(closer)

    def _sequence(self, at: int, closer: str, depth: int) -> tuple[list[Json], int]:
        items: list[Json] = []
        at = self.past(at + 1)
        while not self.text.startswith(closer, at):
            item, at = self.value(at, depth + 1)
            items.append(item)
            at = self.separated(at, closer)
        return items, at + len(closer)

    def expect(self, at: int, text: str) -> int:
        """The place behind `text`, which must be the next thing."""
        at = self.past(at)
        if not self.text.startswith(text, at):
            raise MismatchError
        return at + len(text)

    def separated(self, at: int, closer: str) -> int:
        """The place of the next item, or of the closing bracket."""
        at = self.past(at)
        if self.text.startswith(closer, at):
            return at
        return self.past(self.expect(at, ","))

    def quoted(self, at: int) -> tuple[str, int] | None:
        """A text in quotes, or None if there is none."""
        raise NotImplementedError

    def key(self, at: int) -> tuple[str, int]:
        """A key of a mapping."""
        raise NotImplementedError

    def word(self, at: int) -> tuple[str, int]:
        """A name."""
        match = _WORD.match(self.text, self.past(at))
        if match is None:
            raise MismatchError
        return match[0], match.end()

    def _scalar(self, at: int) -> tuple[Json, int]:
        number = _NUMBER.match(self.text, at)
        if number is None:
            return self._constant(at)
        try:
            value = float(number[0]) if number[1] or number[2] else int(number[0])
        except ValueError:  # thousands of digits
            raise MismatchError from None
        return value, number.end()

    def _constant(self, at: int) -> tuple[Json, int]:
        name, end = self.word(at)
        if name == "null" or name in _CONSTANTS:
            return _CONSTANTS.get(name), end
        raise MismatchError


class PythonText(Notation):
    """Python's notation of plain values; JSON's words and line breaks in texts will do too."""

    closers: ClassVar[dict[str, str]] = {"[": "]", "(": ")", "{": "}"}

    def quoted(self, at: int) -> tuple[str, int] | None:
        """A text in either kind of quotes."""
        quote = self.text[at : at + 1]
        if quote not in ("'", '"'):
            return None
        inside, end = PYTHON_QUOTING.inside[quote], at + 1
        while (match := inside.search(self.text, end)) is not None:
            end = match.end()
            if match[0] == quote:
                return _ESCAPE.sub(_unescaped, self.text[at + 1 : end - 1]), end
        raise MismatchError

    def key(self, at: int) -> tuple[str, int]:
        """A text in quotes."""
        found = self.quoted(self.past(at))
        if found is None:
            raise MismatchError
        return found

    def calls(self, names: Sequence[str]) -> list[tuple[str, dict[str, Json]]]:
        """A list of calls, `[name(key=value, ...), ...]`, of tools with these names."""
        result: list[tuple[str, dict[str, Json]]] = []
        at = self.past(self.expect(0, "["))
        while not self.text.startswith("]", at):
            name = max(filter(self._is_at(at), names), key=len, default=None)
            if name is None:
                raise MismatchError
            at = self.past(at + len(name))
            if not self.text.startswith("(", at):
                raise MismatchError
            arguments, at = self.mapping(at, ")", self.word, "=", 0)
            result.append((name, arguments))
            at = self.separated(at, "]")
        if self.past(at + 1) != len(self.text) or not result:
            raise MismatchError
        return result

    def _is_at(self, at: int) -> Callable[[str], bool]:
        return lambda name: self.text.startswith(name, at)


class BareText(Notation):
    """Gemma's notation: keys without quotes, texts between `<|"|>` without escapes."""

    def quoted(self, at: int) -> tuple[str, int] | None:
        """A text between two of the quotes."""
        (quote,) = BARE_QUOTING.quotes
        if not self.text.startswith(quote, at):
            return None
        end = self.text.find(quote, at + len(quote))
        if end < 0:
            raise MismatchError
        return self.text[at + len(quote) : end], end + len(quote)

    def key(self, at: int) -> tuple[str, int]:
        """Everything up to the colon."""
        found = self.quoted(at)
        if found is not None:
            return found
        end = self.text.find(":", at)
        if end < 0:
            raise MismatchError
        return self.text[at:end].strip(), end

    def whole(self) -> dict[str, Json]:
        """The object that the text is."""
        value, end = self.value(0, 0)
        if not isinstance(value, dict) or self.past(end) != len(self.text):
            raise MismatchError
        return value


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "xuU" and len(code) > 1:
        number = int(code[1:], 16)
        return chr(number) if number < 0x110000 else match[0]
    if code in _ESCAPED:
        return _ESCAPED[code]
    return code if code in "\\'\"/" else match[0]
