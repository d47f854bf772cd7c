"""The items of a request in one shape, each with an id: as they are sent, kept and listed.

Raises InvalidRequest, with the place and the type in the message, never the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from samovar.errors import InvalidRequest

Item = dict[str, Any]
Ids = Callable[[str], str]
"""A new id that begins so."""

Find = Callable[[str], "Item | None"]
"""The item of an id; None: there is no such item."""

MAX_ITEMS = 10_000  # of one request: more are no conversation, and each becomes a message

ROLES = ("user", "assistant", "system", "developer")

_ID_LENGTH = 256  # of an id that comes from a client: ours have 32


def input_items(value: object, new_id: Ids, find: Find) -> tuple[Item, ...]:
    """What `input` holds: text, or a list of items."""
    if isinstance(value, str):
        return (_message({"role": "user", "content": value}, "input", new_id),)
    if not isinstance(value, Sequence):
        raise InvalidRequest(f"input must be text or a list of items, not {kind_of(value)}")
    if len(value) > MAX_ITEMS:
        raise InvalidRequest(f"input holds {len(value)} items; at most {MAX_ITEMS} fit")
    return tuple(_item(one, f"input[{i}]", new_id, find) for i, one in enumerate(value))


def _item(value: object, where: str, new_id: Ids, find: Find) -> Item:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{where} must be an object, not {kind_of(value)}")
    kind = value.get("type")
    if kind is None and "role" in value:
        kind = "message"
    if kind is None and "id" in value:
        kind = "item_reference"
    if kind == "item_reference":
        return _referred(value, where, find)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InvalidRequest(
            f"{where} is of a type that cannot be used here; send message, function_call,"
            " function_call_output, reasoning or item_reference"
        )
    return _KINDS[kind](value, where, new_id)


def _referred(value: Mapping[str, Any], where: str, find: Find) -> Item:
    found = find(_text(value, "id", where))
    if found is None:
        raise InvalidRequest(
            f"{where} refers to an item that is not kept here (any more); send the item itself"
        )
    return found


# ---- messages ------------------------------------------------------------------------------------


def _message(value: Mapping[str, Any], where: str, new_id: Ids) -> Item:
    role = value.get("role")
    if role not in ROLES:
        raise InvalidRequest(f"{where}.role must be one of {', '.join(ROLES)}")
    kind = "output_text" if role == "assistant" else "input_text"
    content = value.get("content")
    if isinstance(content, str):
        parts = [_part(kind, content)]
    elif isinstance(content, Sequence):
        parts = [
            _part(kind, _part_text(one, f"{where}.content[{i}]")) for i, one in enumerate(content)
        ]
    else:
        raise InvalidRequest(
            f"{where}.content must be text or a list of parts, not {kind_of(content)}"
        )
    return {
        "id": _id(value, "msg_", new_id),
        "type": "message",
        "role": role,
        "status": "completed",
        "content": parts,
    }


def _part(kind: str, text: str) -> Item:
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": []}
    return {"type": kind, "text": text}


_TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def _part_text(part: object, where: str) -> str:
    if not isinstance(part, Mapping):
        raise InvalidRequest(f"{where} must be an object with a type, not {kind_of(part)}")
    kind = part.get("type")
    if kind == "refusal":
        return _text(part, "refusal", where)
    if kind not in _TEXT_PARTS:
        raise InvalidRequest(
            f"{where} is no text; only text can be read here (input_text, output_text)"
        )
    return _text(part, "text", where)


# ---- reasoning and calls -------------------------------------------------------------------------


def _reasoning(value: Mapping[str, Any], where: str, new_id: Ids) -> Item:
    item: Item = {"id": _id(value, "rs_", new_id), "type": "reasoning", "status": "completed"}
    for name, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = value.get(name) or []
        if not isinstance(parts, Sequence) or isinstance(parts, str):
            raise InvalidRequest(f"{where}.{name} must be a list of parts, not {kind_of(parts)}")
        texts = [_part_text(one, f"{where}.{name}[{i}]") for i, one in enumerate(parts)]
        item[name] = [{"type": kind, "text": text} for text in texts]
    if value.get("encrypted_content") is not None:
        item["encrypted_content"] = _text(value, "encrypted_content", where)
    return item


def _call(value: Mapping[str, Any], where: str, new_id: Ids) -> Item:
    item = {
        "id": _id(value, "fc_", new_id),
        "type": "function_call",
        "status": "completed",
        "call_id": _text(value, "call_id", where),
        "name": _text(value, "name", where),
        "arguments": _text(value, "arguments", where),
    }
    if value.get("namespace") is not None:
        item["namespace"] = _text(value, "namespace", where)
    return item


def _call_output(value: Mapping[str, Any], where: str, new_id: Ids) -> Item:
    output = value.get("output")
    if not isinstance(output, str):
        if not isinstance(output, Sequence):
            raise InvalidRequest(
                f"{where}.output must be text or a list of parts, not {kind_of(output)}"
            )
        texts = [_part_text(one, f"{where}.output[{i}]") for i, one in enumerate(output)]
        output = [{"type": "input_text", "text": text} for text in texts]
    return {
        "id": _id(value, "fco_", new_id),
        "type": "function_call_output",
        "status": "completed",
        "call_id": _text(value, "call_id", where),
        "output": output,
    }


def _custom_call(value: Mapping[str, Any], where: str, new_id: Ids) -> Item:
    return {
        "id": _id(value, "ctc_", new_id),
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": _text(value, "call_id", where),
        "name": _text(value, "name", where),
        "input": _text(value, "input", where),
    }


def _custom_output(value: Mapping[str, Any], where: str, new_id: Ids) -> Item:
    return {**_call_output(value, where, new_id), "type": "custom_tool_call_output"}


_KINDS: dict[str, Callable[[Mapping[str, Any], str, Ids], Item]] = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _call,
    "function_call_output": _call_output,
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _custom_output,
}


# ---- helpers -------------------------------------------------------------------------------------


def _id(value: Mapping[str, Any], prefix: str, new_id: Ids) -> str:
    given = value.get("id")
    if isinstance(given, str) and 0 < len(given) <= _ID_LENGTH:
        return given
    return new_id(prefix)


def _text(value: Mapping[str, Any], name: str, where: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise InvalidRequest(f"{where}.{name} must be text, not {kind_of(found)}")
    return found


def kind_of(value: object) -> str:
    """How JSON calls the type of a value."""
    return "null" if value is None else type(value).__name__
