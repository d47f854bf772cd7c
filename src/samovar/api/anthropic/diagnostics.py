"""Why a prompt was not read from the cache: what a request changed of the one before it.

A client that asks (`diagnostics`) is told the first thing that differs, in the order in which a
prompt is made: model, system, tools, messages. What was asked is remembered as digests, for the
latest requests of those who ask.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from samovar.api.anthropic.schema import Content, ConversationFields, MessagesFields

MOST_REMEMBERED = 4096  # requests, of some hundred bytes each

_BILLING = "x-anthropic-billing-header:"


@dataclass(slots=True)
class Asked:
    """What one request was made of."""

    salt: str
    """With whom it shares; others are not told of it."""
    model: str
    system: bytes
    tools: bytes
    settings: bytes
    """What else a prompt depends on."""
    num_messages: int
    messages: bytes
    prompt_tokens: int | None = None
    """None: it has not ended yet."""


def asked_of(body: MessagesFields, salt: str) -> Asked:
    """The digests of a request."""
    return Asked(
        salt,
        body.model,
        _digest(_system(body)),
        _digest([tool.model_dump(exclude={"cache_control"}) for tool in body.tools or ()]),
        _digest([part and part.model_dump() for part in (body.thinking, body.tool_choice)]),
        len(body.messages),
        _messages(body, len(body.messages)),
    )


class Remembered:
    """The latest requests of those who ask for diagnostics, by the id of their message."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._asked: OrderedDict[str, Asked] = OrderedDict()

    def remember(self, message_id: str, asked: Asked) -> None:
        """The next request may name it. The oldest is forgotten."""
        self._asked[message_id] = asked
        if len(self._asked) > self._most:
            self._asked.popitem(last=False)

    def compare(
        self, previous_id: str | None, body: MessagesFields, asked: Asked
    ) -> dict[str, Any] | None:
        """The `diagnostics` of a message; None: its prompt begins with all of the one before."""
        if previous_id is None:
            return None
        before = self._asked.get(previous_id)
        if before is None or before.salt != asked.salt:
            return {"cache_miss_reason": {"type": "previous_message_not_found"}}
        kind = _first_change(before, body, asked)
        if kind is None:
            return None
        reason: dict[str, Any] = {"type": kind}
        if kind != "unavailable":
            reason["cache_missed_input_tokens"] = before.prompt_tokens or 0
        return {"cache_miss_reason": reason}


def _first_change(before: Asked, body: MessagesFields, asked: Asked) -> str | None:
    if before.model != asked.model:
        return "model_changed"
    if before.system != asked.system:
        return "system_changed"
    if before.tools != asked.tools:
        return "tools_changed"
    if before.settings != asked.settings:
        return "unavailable"
    if before.messages != _messages(body, before.num_messages):
        return "messages_changed"
    return None


def _system(body: ConversationFields) -> list[Any]:
    blocks = [{"text": body.system}] if isinstance(body.system, str) else body.system or []
    return [_bare(one) for one in blocks if not str(one.get("text")).startswith(_BILLING)]


def _messages(body: ConversationFields, count: int) -> bytes:
    return _digest([(turn.role, _plain(turn.content)) for turn in body.messages[:count]])


def _plain(content: Content) -> list[Any]:
    """Text and one block of text are the same."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [_bare(one) for one in blocks]


def _bare(block: dict[str, Any]) -> dict[str, Any]:
    """A block without what moves on from turn to turn and is no part of the prompt."""
    return {name: value for name, value in block.items() if name != "cache_control"}


def _digest(value: object) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
