r"""User text stays text: it never becomes a control token, whatever it spells.

A rendered prompt must be tokenised with special tokens parsed, since the template writes them,
but `<|im_end|>` in a message is just ten characters. So before rendering, each place in the
caller's strings where a special token's text stands (or reaches over an end of the string and
may be completed by what the template puts next to it) gets one of its characters replaced by a
private-use code point that stands for it. The rendering carries the code points to wherever the
string went; there they are turned back, and special texts that hold one become segments of their
own in which no special token is parsed.

    caller   "end with <|im_end|>"       guarded  "end with \ue000|im_end|>"
    rendered "user\nend with \ue000|im_end|><|im_end|>\n"
    segments ("user\nend with ", parse) ("<|im_end|>", literal) ("<|im_end|>\n", parse)

Strings keep their length, and trimming, splitting, changing case and JSON-quoting them has the
same effect. Left as they are: roles, types and keys that are plain words, since templates look
for them. Not covered: a special text completed by blanks or quotation marks alone, since replacing
those would undo trimming and quoting; and a template that deletes characters from the middle of
a text, so that what was apart becomes a special text.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from samovar.chat.messages import Json
from samovar.chat.specials import Span, Specials
from samovar.errors import InvalidRequest

_PRIVATE_USE = range(0xE000, 0xF900)
_WORD = re.compile(r"[\w.-]+\Z")
_RUNS = re.compile(rb"\x00+|\x01+")

_NAMED = frozenset({"role", "type"})
"""Their words decide what a template does, and it may build special tokens from a role."""

_PROSE = frozenset(
    {"arguments", "content", "description", "reasoning", "reasoning_content", "text", "thinking"}
)
"""What stands under these keys is looked at as a whole, even if it is a single word."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a prompt, and whether special tokens are to be parsed in it."""

    text: str
    parse_special: bool


def guard(conversation: Json, specials: Specials, *, avoid: str = "") -> tuple[Json, Guard]:
    """A guarded copy of plain JSON data, and what turns its rendering into segments.

    `avoid` is the template's source: no code point is used that it could write itself. Raises
    InvalidRequest for data that uses up every private-use code point.
    """
    result = Guard(specials, _private_use(conversation, avoid))
    return result.applied_to(conversation), result


class Guard:
    """The code points of one conversation: each stands for one character."""

    def __init__(self, specials: Specials, taken: set[int]) -> None:
        self._specials = specials
        self._free = (code for code in _PRIVATE_USE if code not in taken)
        self._codes: dict[str, str] = {}

    def applied_to(self, value: Json, key: str = "") -> Json:
        """A copy of `value`, which stands under `key`, with its strings guarded."""
        if isinstance(value, str):
            return self._guarded(value, key)
        if isinstance(value, Mapping):
            return {
                self._guarded(name, "type"): self.applied_to(item, _inner_key(key, name))
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [self.applied_to(item, key) for item in value]
        return value

    def segments(self, rendered: str) -> list[Segment]:
        """A rendering of guarded data, restored. Joined, the texts are the prompt."""
        text, places = self._restored(rendered)
        if not places:
            return [Segment(text, parse_special=True)]
        flags = self._literal_flags(text, places)
        return [
            Segment(text[run.start() : run.end()], parse_special=run[0][0] == 0)
            for run in _RUNS.finditer(flags)
        ]

    def restored(self, text: str) -> str:
        """`text` with the guarded characters back in their places."""
        return self._restored(text)[0]

    def _guarded(self, text: str, key: str) -> str:
        is_word = _WORD.match(text) is not None
        if is_word and key in _NAMED:
            return text
        spans = set(self._specials.likenesses(text))
        if not is_word or key in _PROSE:
            ends = self._specials.loose_ends(text)
            spans.update(span for span in ends if any(map(_is_inert, text[slice(*span)])))
        if not spans:
            return text
        chars = list(text)
        for place in {_anchor(text, span) for span in spans}:
            chars[place] = self._code(text[place])
        return "".join(chars)

    def _code(self, char: str) -> str:
        if char not in self._codes:
            code = next(self._free, None)
            if code is None:
                raise InvalidRequest("the messages hold every private-use character of Unicode")
            self._codes[char] = chr(code)
        return self._codes[char]

    def _restored(self, rendered: str) -> tuple[str, list[int]]:
        codes = {code: char for char, code in self._codes.items()}
        if not codes:
            return rendered, []
        for code in codes:  # as JSON of ASCII alone spells it
            rendered = rendered.replace(f"\\u{ord(code):04x}", code)
        places = [match.start() for match in re.finditer(f"[{''.join(codes)}]", rendered)]
        return rendered.translate({ord(code): char for code, char in codes.items()}), places

    def _literal_flags(self, text: str, places: list[int]) -> bytearray:
        """Per character 1 where it is part of a special text with a guarded place in it.

        Unless it is also part of one without: the template's own, which overlaps the user's.
        """
        flags = bytearray(len(text))
        own: list[Span] = []
        for start, end in self._specials.occurrences(text):
            index = bisect_left(places, start)
            if index < len(places) and places[index] < end:
                flags[start:end] = b"\x01" * (end - start)
            else:
                own.append((start, end))
        for start, end in own:
            flags[start:end] = bytes(end - start)
        return flags


def _inner_key(key: str, name: str) -> str:
    """What the value of `name` counts as, inside the value of `key`."""
    if key == "arguments":
        return key  # all that a call passes is prose
    if name == "arguments" and key != "function":
        return ""  # a tool's parameter of that name: its schema is not
    return name


def _anchor(text: str, span: Span) -> int:
    """Which character of a special text to replace: the first that filters treat least."""
    places = range(*span)
    marks = (place for place in places if _is_inert(text[place]) and not text[place].isalnum())
    return next(marks, next((place for place in places if _is_inert(text[place])), span[0]))


def _is_inert(char: str) -> bool:
    """Whether neither trimming nor quoting makes anything of `char`."""
    return char.isprintable() and not char.isspace() and char not in "\"'\\"


def _private_use(conversation: Json, avoid: str) -> set[int]:
    """The private-use code points that are in the data, or that a template's source spells."""
    text = "\n".join((avoid, *_strings(conversation)))
    escapes = re.findall(r"\\u([0-9a-fA-F]{4})", text)
    return set(map(ord, set(text))) | {int(digits, 16) for digits in escapes}


def _strings(value: Json) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
