"""What a template reads, found out by rendering small conversations with marked words.

Templates differ in what they expect of the same conversation: arguments as an object or as
text, content as text or as parts, a system message or none. Trying is more reliable than looking
for names in the source.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from samovar.chat.messages import Json
from samovar.types import Message, Tool

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""The names under which templates and clients know an assistant's reasoning."""

Attempt = Callable[[list[Message], list[Tool] | None], str | None]
"""A render that yields None where the template fails."""

_FIRST, _SECOND = "marigold", "periwinkle"  # in no template, and the same when trimmed
_KEY, _VALUE = "quetzal", "ocelot"


@dataclass(frozen=True, slots=True)
class Traits:
    """How one template wants its input."""

    reads_parts: bool
    """A list of typed parts as content."""
    wants_parts: bool
    """Nothing but a list of typed parts."""
    reads_system: bool
    reads_developer: bool
    reasoning_keys: tuple[str, ...]
    """The names of reasoning that the source speaks of."""
    wants_argument_text: bool
    """Arguments of tool calls as JSON text; otherwise as an object."""
    empty_content: str | None
    """The content of a tool call without any."""


def probe(source: str, attempt: Attempt) -> Traits:
    """Find out. About eight renders of two or three messages."""
    as_text = _shows(attempt([_user(_FIRST)], None), _FIRST)
    as_parts = _shows(attempt([_user(_parts(_FIRST))], None), _FIRST)
    wants_parts = as_parts and not as_text
    say = _parts if wants_parts else str
    system: Message = {"role": "system", "content": say(_FIRST)}
    wants_text, empty = _call_style(attempt, _user(say(_FIRST)))
    return Traits(
        reads_parts=as_parts,
        wants_parts=wants_parts,
        reads_system=_shows(attempt([system, _user(say(_SECOND))], None), _FIRST, _SECOND),
        reads_developer="developer" in source,
        reasoning_keys=tuple(key for key in REASONING_KEYS if key in source),
        wants_argument_text=wants_text,
        empty_content=empty,
    )


def _call_style(attempt: Attempt, user: Message) -> tuple[bool, str | None]:
    """Whether arguments are wanted as text, and what an empty content is."""
    for arguments in ({_KEY: _VALUE}, json.dumps({_KEY: _VALUE})):
        rendered = [attempt([user, *_call(arguments, content)], [_TOOL]) for content in ("", None)]
        shown = [_shows_arguments(text) for text in rendered]
        if shown[1] and (not shown[0] or _nones(rendered[1]) == _nones(rendered[0])):
            return isinstance(arguments, str), None
        if shown[0]:
            return isinstance(arguments, str), ""
    return False, ""


def _shows_arguments(text: str | None) -> bool:
    """Whether both words are there, neither as Python's repr nor as JSON within JSON."""
    if text is None or _KEY not in text or _VALUE not in text:
        return False
    return f"'{_KEY}'" not in text and f'\\"{_KEY}' not in text


def _nones(text: str | None) -> int:
    """How often a missing content may have been printed as a word."""
    return (text or "").count("None") + (text or "").count("null")


def _shows(text: str | None, *words: str) -> bool:
    """Whether the words are there, and not as part of a printed list."""
    folded = (text or "").lower()
    return all(
        word in folded and f"'{word}'" not in folded and f'"{word}"' not in folded for word in words
    )


def _user(content: Json) -> Message:
    return {"role": "user", "content": content}


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _call(arguments: Json, content: str | None) -> list[Message]:
    function = {"name": "lookup", "arguments": arguments}
    call = {"id": "abcdefgh1", "type": "function", "function": function}
    return [
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefgh1", "name": "lookup", "content": "found"},
    ]


_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Looks up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
    },
}
