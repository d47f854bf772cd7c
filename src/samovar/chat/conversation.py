"""A conversation in the terms of one template: what `traits` found out, applied to messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from samovar.chat.messages import Json, plain_messages, plain_tools
from samovar.chat.traits import REASONING_KEYS, Traits
from samovar.errors import InvalidRequest
from samovar.types import Message, Tool

_ID_LENGTH = 9
"""Characters of a tool call's id in Mistral's templates, which refuse any other."""


@dataclass
class Conversation:
    """Messages and tools that a template may be handed; it may change them."""

    messages: list[Message]
    tools: list[Tool] | None

    @property
    def has_broken_arguments(self) -> bool:
        """Whether a tool call was sent with arguments that are not a JSON object."""
        return any(not isinstance(call["arguments"], dict) for call in self.functions())

    def functions(self) -> Iterator[dict[str, Any]]:
        """The `function` of every tool call."""
        for call in self.calls():
            yield call["function"]

    def calls(self) -> Iterator[dict[str, Any]]:
        """Every tool call."""
        for message in self.messages:
            yield from message.get("tool_calls", [])

    @classmethod
    def of(cls, messages: object, tools: object) -> Conversation:
        """What the caller sent, checked and copied. Raises InvalidRequest."""
        return cls(plain_messages(messages), plain_tools(tools))

    def adapt(self, traits: Traits) -> None:
        """Say everything in the way that the template reads it."""
        for message in self.messages:
            if message["role"] == "developer" and not traits.reads_developer:
                message["role"] = "system"
            _adapt_content(message, traits)
            _add_reasoning_aliases(message, traits)
        if not traits.reads_system:
            self.messages = _merged_system(self.messages)
        if traits.wants_argument_text:
            for function in self.functions():
                function["arguments"] = _argument_text(function["arguments"])


def _argument_text(arguments: Json) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _adapt_content(message: Message, traits: Traits) -> None:
    content = message["content"]
    if "tool_calls" in message and not content:
        message["content"] = traits.empty_content
    elif isinstance(content, str):
        if traits.wants_parts:
            message["content"] = [{"type": "text", "text": content}]
    elif isinstance(content, list):
        _adapt_parts(message, content, traits)


def _adapt_parts(message: Message, parts: list[dict[str, Any]], traits: Traits) -> None:
    # Templates that read parts at all read them in a user's message, not always elsewhere.
    if traits.wants_parts or (traits.reads_parts and message["role"] == "user"):
        return
    others = sorted({part["type"] for part in parts} - {"text"})
    if not others:
        message["content"] = "\n".join(part["text"] for part in parts)
    elif not traits.reads_parts:
        raise InvalidRequest(
            f"this model's template takes text only, not parts of type {', '.join(others)};"
            " send the content as text"
        )


def _add_reasoning_aliases(message: Message, traits: Traits) -> None:
    given = next((message[key] for key in REASONING_KEYS if message.get(key)), None)
    if given is not None:
        for key in traits.reasoning_keys:
            message.setdefault(key, given)


def _merged_system(messages: list[Message]) -> list[Message]:
    """Each system message in front of the next user message, or as one at the end."""
    result: list[Message] = []
    pending: list[Message] = []
    for message in messages:
        if message["role"] == "system":
            pending.append(message)
            continue
        if message["role"] == "user":
            for system in reversed(pending):
                message["content"] = _joined(system["content"], message["content"])
            pending = []
        result.append(message)
    return result + [{**system, "role": "user"} for system in pending]


def _joined(first: Json, second: Json) -> Json:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_parts(first), *_parts(second)]


def _parts(content: Json) -> list[Json]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


# ---- repairs: what to try when a template refuses a conversation -----------------------------


def describe_tools(conversation: Conversation) -> bool:
    """Give tools without a description an empty one. Says whether anything changed, as all do."""
    changed = False
    for tool in conversation.tools or []:
        if "description" not in tool["function"]:
            tool["function"]["description"] = ""
            changed = True
    return changed


def renew_ids(conversation: Conversation) -> bool:
    """Give tool calls ids of nine letters and digits, derived from the ids they have."""
    pending: list[str] = []
    for message in conversation.messages:
        for call in message.get("tool_calls", []):
            call["id"] = _short_id(str(call.get("id", f"call {len(pending)}")))
            pending.append(call["id"])
        if message["role"] == "tool":
            told = message.get("tool_call_id")
            own = _short_id(str(told)) if told else next(iter(pending), _short_id(""))
            message["tool_call_id"] = own
            if own in pending:
                pending.remove(own)
    return any(True for _ in conversation.calls())


def drop_reasoning(conversation: Conversation) -> bool:
    """Leave out the reasoning of turns that also have content: gpt-oss takes one of them."""
    changed = False
    for message in conversation.messages:
        for key in REASONING_KEYS:
            if message["content"] and message.pop(key, None):
                changed = True
    return changed


REPAIRS = (describe_tools, renew_ids, drop_reasoning)
"""In the order in which they are tried; each is added to those before it."""


def _short_id(text: str) -> str:
    if len(text) == _ID_LENGTH and text.isascii() and text.isalnum():
        return text
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:_ID_LENGTH]
