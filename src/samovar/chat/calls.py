"""Reading one call, or a section of calls, as a family's frame says.

Nothing counts as a call that names no tool which was given. What stands where a call should be and
is none raises MismatchError, with everything since `Reader.begin` still in `Reader.taken`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from samovar.chat.arguments import (
    ENVELOPE_KEYS,
    Named,
    dumps,
    enveloped,
    json_or_text,
    object_text,
    tagged_text,
)
from samovar.chat.messages import Json
from samovar.chat.notations import BARE_QUOTING, PYTHON_QUOTING, BareText, PythonText
from samovar.chat.reader import MismatchError, Quoting, Reader, Reading
from samovar.chat.shapes import Frame, Maybe, Parameters, Part, Slot

_JSON_QUOTING = Quoting(('"',))
_WORD = re.compile(r"[\w.:-]*")
_WORD_LIMIT = 256  # characters of an id; what goes on longer is none
_SEPARATORS = (",", ";")
_CDATA = ("<![CDATA[", "]]>")

Schemas = Mapping[str, Json]
"""The names of the tools, and the schema of the arguments of each."""


@dataclass
class _Draft:
    """What is known of a call while it is read."""

    name: str = ""
    done: tuple[Named, ...] = ()


class CallReader:
    """Reads the calls of one frame."""

    def __init__(self, frame: Frame, tools: Schemas) -> None:
        self._frame = frame
        self._tools = tools
        self._open = frame.open.strip()
        self._close = frame.close.strip()
        self.close = self._close
        self.is_anchored = frame.is_anchored
        self._slots: dict[Slot, Callable[[Reader, _Draft, tuple[str, ...]], Reading[None]]] = {
            Slot.NAME: self._name,
            Slot.WORD: self._word,
            Slot.JSON: self._json,
            Slot.ENVELOPE: self._envelope,
            Slot.LIST: self._envelope,
            Slot.PARAMETERS: self._parameters,
            Slot.PYTHON: self._python,
            Slot.BARE: self._bare,
        }
        first = frame.call[0]
        self.opener = first.strip() if isinstance(first, str) else ""
        """What a call begins with; nothing: a bracket."""
        self.openers = tuple(filter(None, (self._open, self.opener)))
        """What calls may begin with."""

    def section(self, reader: Reader, found: Callable[[Named], None]) -> Reading[None]:
        """Read `open`, calls, `close`. Each call is told as soon as it is complete."""
        has_section = bool(self._open) and (yield from reader.literal(self._open))
        while True:
            for call in (yield from self._call(reader)):
                found(call)
            reader.begin()
            yield from reader.blanks()
            separator = yield from reader.first_of(_SEPARATORS)
            if not has_section or not self._close:
                if separator is None:
                    return
                continue
            yield from reader.blanks()
            if (yield from _literal(reader, self._close, is_last=True)):
                return

    def _call(self, reader: Reader) -> Reading[tuple[Named, ...]]:
        draft = _Draft()
        yield from self._parts(reader, self._frame.call, draft)
        return draft.done

    def _parts(self, reader: Reader, parts: Sequence[Part], draft: _Draft) -> Reading[None]:
        for index, part in enumerate(parts):
            yield from reader.blanks()
            if isinstance(part, Slot):
                yield from self._slots[part](reader, draft, self._literals(parts[index + 1 :]))
            elif isinstance(part, Maybe):
                first = part.parts[0]
                if isinstance(first, str) and (yield from reader.literal(first.strip())):
                    yield from self._parts(reader, part.parts[1:], draft)
            elif not (yield from _literal(reader, part.strip(), is_last=bool(draft.done))):
                raise MismatchError

    def _literals(self, parts: Sequence[Part]) -> tuple[str, ...]:
        texts = [part.strip() for part in parts if isinstance(part, str)]
        return tuple(filter(None, [*texts, self._close]))

    # ---- what may stand in a slot -----------------------------------------------------------

    def _name(self, reader: Reader, draft: _Draft, _after: tuple[str, ...]) -> Reading[None]:
        name = yield from reader.first_of(tuple(self._tools))
        if name is None:
            raise MismatchError
        draft.name = name

    def _word(self, reader: Reader, _draft: _Draft, _after: tuple[str, ...]) -> Reading[None]:
        size = 0
        while (match := reader.search(_WORD)) and match[0] == 0:
            size += len(reader.take(len(match[1])))
            if size > _WORD_LIMIT:
                raise MismatchError
            if reader.left or reader.has_ended:
                return
            yield

    def _json(self, reader: Reader, draft: _Draft, _after: tuple[str, ...]) -> Reading[None]:
        text = yield from self._bracketed(reader, _JSON_QUOTING, "{")
        draft.done = ((draft.name, object_text(text)),)

    def _envelope(self, reader: Reader, draft: _Draft, _after: tuple[str, ...]) -> Reading[None]:
        opener = yield from reader.first_of(("{", "["))
        start = opener or ""
        if opener == "[":
            start += yield from reader.blanks()
            start += "{" if (yield from reader.literal("{")) else ""
        if not start.endswith("{"):
            raise MismatchError
        # An answer in JSON must not wait for its end: a call shows in the first key.
        start += yield from reader.blanks()
        keys = tuple(f'"{key}"' for key in (*ENVELOPE_KEYS, *self._tools))
        key = yield from reader.first_of(keys)
        if key is None:
            raise MismatchError
        rest = yield from reader.bracketed(_JSON_QUOTING, depth=1 + (opener == "["))
        draft.done = tuple(enveloped(start + key + rest, self._tools))

    def _python(self, reader: Reader, draft: _Draft, _after: tuple[str, ...]) -> Reading[None]:
        text = yield from self._bracketed(reader, PYTHON_QUOTING, "[")
        calls = PythonText(text).calls(tuple(self._tools))
        draft.done = tuple((name, dumps(arguments)) for name, arguments in calls)

    def _bare(self, reader: Reader, draft: _Draft, _after: tuple[str, ...]) -> Reading[None]:
        text = yield from self._bracketed(reader, BARE_QUOTING, "{")
        draft.done = ((draft.name, dumps(BareText(text).whole())),)

    def _bracketed(self, reader: Reader, quoting: Quoting, opener: str) -> Reading[str]:
        if not (yield from reader.literal(opener)):
            raise MismatchError
        return opener + (yield from reader.bracketed(quoting, depth=1))

    def _parameters(self, reader: Reader, draft: _Draft, after: tuple[str, ...]) -> Reading[None]:
        tags = self._frame.parameters
        if tags is None:
            raise AssertionError("a frame with parameters says how they are written")
        schema = self._tools[draft.name]
        members: dict[str, str] = {}
        while (yield from reader.literal(tags.open.strip())):
            key, text = yield from _parameter(reader, tags, after, schema)
            members[key] = text
            yield from reader.blanks()
        body = ", ".join(f"{dumps(key)}: {text}" for key, text in members.items())
        draft.done = ((draft.name, f"{{{body}}}"),)


def _literal(reader: Reader, text: str, *, is_last: bool) -> Reading[bool]:
    """Read a literal. `is_last`: it closes what is complete, and the turn may end within it."""
    if (yield from reader.literal(text)):
        return True
    return is_last and reader.take_rest(text)


def _parameter(
    reader: Reader, tags: Parameters, after: tuple[str, ...], schema: Json
) -> Reading[tuple[str, str]]:
    """The key, and the value as JSON text."""
    key = (yield from reader.through(tags.key_end.strip())).strip()
    attributes = (yield from reader.through(tags.value_start)) if tags.value_start else ""
    pieces: list[str] = []
    while True:
        pieces.append((yield from reader.before(tags.close)))
        # A value may hold the closing tag itself: it counts where the call goes on behind it.
        if (yield from reader.followed_by(tags.close, (tags.open, *after))):
            break
        pieces.append(reader.take(len(tags.close)))
    reader.take(len(tags.close))
    text = _unwrapped("".join(pieces), tags.wrap)
    if not tags.text_attribute:
        return key, tagged_text(text, _property(schema, key), schema)
    return key, dumps(text) if tags.text_attribute in attributes else json_or_text(text)


def _unwrapped(text: str, wrap: str) -> str:
    for start, end in ((wrap, wrap), _CDATA):
        if start and text.startswith(start) and text.endswith(end):
            text = text[len(start) : max(len(start), len(text) - len(end))]
    return text


def _property(schema: Json, key: str) -> Json:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties.get(key) if isinstance(properties, dict) else None
