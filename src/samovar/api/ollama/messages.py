"""Messages and tools of Ollama's in our shape, which is OpenAI's.

Ollama's calls have no ids, its results name the tool (`tool_name`) or follow in order. Ids are
made up here, the same for the same conversation, so that its prompt stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from samovar.errors import InvalidRequest
from samovar.types import Message, Tool

NO_IMAGES = "images are not read by this server; send text alone"


def decode_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The conversation. Raises InvalidRequest for images; what else may be wrong is found later."""
    pending: list[tuple[str, str]] = []  # calls without a result: id and name
    return tuple(_message(one, index, pending) for index, one in enumerate(messages))


def decode_tools(tools: Sequence[Mapping[str, Any]] | None) -> tuple[Tool, ...]:
    """The tools; clients leave the type out at times."""
    return tuple({"type": "function", **_without_none(one)} for one in tools or ())


def _message(message: Mapping[str, Any], index: int, pending: list[tuple[str, str]]) -> Message:
    if message.get("images"):
        raise InvalidRequest(f"messages.{index}.images: {NO_IMAGES}")
    found = _without_none(message)
    found.pop("images", None)
    role = found.get("role")
    if isinstance(role, str):
        found["role"] = role.lower()
    found.setdefault("content", "")
    thinking = found.pop("thinking", None)
    if thinking:
        found["reasoning_content"] = thinking
    if found.get("role") == "tool":
        _name_call(found, pending)
    elif isinstance(found.get("tool_calls"), list):
        found["tool_calls"] = _calls(found["tool_calls"], index, pending)
    return found


def _calls(calls: list[Any], index: int, pending: list[tuple[str, str]]) -> list[Any]:
    pending.clear()
    return [_call(one, f"call_{index}_{i}", pending) for i, one in enumerate(calls)]


def _call(call: Any, own_id: str, pending: list[tuple[str, str]]) -> Any:  # noqa: ANN401 - as sent
    """One call; one that is none is left as it is, and refused where messages are checked."""
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        return call
    function = _without_none(call["function"])
    function.pop("index", None)
    call_id = str(call.get("id") or own_id)
    pending.append((call_id, str(function.get("name"))))
    return {"id": call_id, "type": "function", "function": function}


def _name_call(result: Message, pending: list[tuple[str, str]]) -> None:
    """Say whose result it is: by its id, by the name of the tool, else the first that has none."""
    name = result.pop("tool_name", None) or result.get("name")
    told = result.get("tool_call_id")
    for call in pending:
        if told in (None, call[0]) and name in (None, call[1]):
            pending.remove(call)
            told, name = call
            break
    if told is not None:
        result["tool_call_id"] = str(told)
    if name is not None:
        result["name"] = str(name)


def _without_none(message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None}
