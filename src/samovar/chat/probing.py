"""How a template writes a call, found out by rendering one: for calls in JSON, of no known family.

The same turn is rendered once with a word and once with a call. What stands where the word stood is
the call, and what is around the JSON in it is the frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from samovar.chat.messages import Json
from samovar.chat.shapes import Frame, Slot
from samovar.errors import SamovarError
from samovar.types import Message, Tool

Render = Callable[[list[Message], list[Tool]], str]
"""Renders messages and tools without a generation prompt; a SamovarError: it cannot."""

_WORD = "marigold"
_NAME, _KEY, _VALUE, _ID = "quetzal_lookup", "ocelot", "periwinkle", "tapir0001"
_ARGUMENTS = {_KEY: _VALUE}
_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Looks up.",
        "parameters": {
            "type": "object",
            "properties": {_KEY: {"type": "string", "description": "What"}},
            "required": [_KEY],
        },
    },
}


def probed_frame(render: Render) -> Frame | None:
    """The frame of calls, or None where the rendering shows none that could be read."""
    one = _call_text(render, 1)
    frame = _read(one) if one else None
    if frame is None or not frame.open.strip():
        return frame
    several = _call_text(render, 2) or ""
    return replace(frame, is_per_call=several.count(frame.open.strip()) > 1)


def _call_text(render: Render, count: int) -> str | None:
    """What the template writes for so many calls, without what any turn has around it."""
    call = {
        "id": _ID,
        "type": "function",
        "function": {"name": _NAME, "arguments": json.dumps(_ARGUMENTS)},
    }
    turns: list[Message] = [
        {"role": "assistant", "content": _WORD},
        {"role": "assistant", "content": "", "tool_calls": [call] * count},
    ]
    try:
        said, called = (render([{"role": "user", "content": "?"}, turn], [_TOOL]) for turn in turns)
    except SamovarError:
        return None
    head, found, tail = said.rpartition(_WORD)
    if not found or not called.startswith(head) or not called.endswith(tail):
        return None
    return called[len(head) : len(called) - len(tail)]


def _read(text: str) -> Frame | None:
    decoder = json.JSONDecoder()
    for start, char in enumerate(text):
        if char not in "[{":
            continue
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            continue
        frame = _framed(text[:start], value, text[end:])
        if frame is not None:
            return frame
    return None


def _framed(before: str, value: Json, after: str) -> Frame | None:
    if value == _ARGUMENTS:
        return _after_name(before, after)
    slot = Slot.LIST if isinstance(value, list) else Slot.ENVELOPE
    item = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(item, dict):
        return None
    name_key = next((key for key, one in item.items() if one == _NAME), None)
    arguments_key = next((key for key, one in item.items() if one == _ARGUMENTS), None)
    if name_key is None or arguments_key is None or _ID in before + after:
        return None
    return Frame(
        (slot,),
        open=before,
        close=after,
        is_anchored=not before.strip(),
        name_key=name_key,
        arguments_key=arguments_key,
    )


def _after_name(before: str, after: str) -> Frame | None:
    opener, found, between = before.partition(_NAME)
    if not found or not opener.strip() or _ID in before + after:
        return None
    parts = (opener, Slot.NAME, between, Slot.JSON, after)
    return Frame(tuple(part for part in parts if part))
