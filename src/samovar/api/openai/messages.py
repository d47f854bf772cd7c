"""Messages of a conversation, as OpenAI's clients send them, in the one form that we use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from samovar.api.openai.checks import BadField
from samovar.types import Message

_MAX_PARTS = 4096  # of one message
_MAX_CALLS = 1024  # of one message
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of parts that are text, and the field that holds it."""


class Part(BaseModel):
    """A part of a message. Only text can be read here."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    """One message. What a template may want besides is passed on."""

    model_config = ConfigDict(extra="allow")

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Annotated[list[str | Part], Field(max_length=_MAX_PARTS)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[dict[str, Any]], Field(max_length=_MAX_CALLS)] | None = None
    tool_call_id: str | None = None
    function_call: dict[str, Any] | None = None
    reasoning_content: str | None = None


def messages_of(given: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The messages. Raises BadField for parts that are not text, and for what is nested deep."""
    found: list[Message] = []
    pending: str | None = None
    for index, one in enumerate(given):
        place = f"messages[{index}]"
        message = one.model_dump(exclude_unset=True)
        if isinstance(message.get("content"), list):
            message["content"] = [
                _text_part(part, f"{place}.content[{i}]")
                for i, part in enumerate(message["content"])
            ]
        pending = _as_tool_turn(message, index, pending)
        found.append(message)
    return tuple(found)


def _text_part(part: str | dict[str, Any], place: str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    field = _TEXTS.get(part["type"])
    if field is None:
        raise BadField(
            place, "this server reads text only, no images, sound or files; leave the part out"
        )
    text = part.get(field)
    if not isinstance(text, str):
        raise BadField(f"{place}.{field}", "must be text")
    return {"type": "text", "text": text}


def _as_tool_turn(message: Message, index: int, pending: str | None) -> str | None:
    """Say a call and its answer as tools do; returns the id of a call that waits for its answer.

    Before there were tools, a call had no id, and the next message of the role `function` was its
    answer.
    """
    call = message.pop("function_call", None)
    if call is not None and not message.get("tool_calls"):
        pending = f"call_{index}"
        message["tool_calls"] = [{"id": pending, "type": "function", "function": call}]
    elif message["role"] == "function":
        message["role"] = "tool"
        message.setdefault("tool_call_id", pending or f"call_{index}")
        pending = None
    return pending
