"""A last message that goes on: where its text ends in a rendering is found by a mark behind it."""

from __future__ import annotations

from collections.abc import Iterator

from samovar.chat.messages import Json
from samovar.chat.traits import REASONING_KEYS
from samovar.errors import InvalidRequest
from samovar.types import Message

_MARK = "zirconquill"  # letters, so that trimming, splitting and quoting leave it alone


def unfinished(messages: list[Message], source: str) -> Iterator[tuple[list[Message], str]]:
    """The messages with a mark behind the last one's text, in the ways worth trying; and the mark.

    Behind the reasoning if there is nothing else yet. Raises InvalidRequest for a last message
    that cannot be continued.
    """
    last = messages[-1]
    if last["role"] != "assistant":
        raise InvalidRequest("only a last message of the assistant's can be continued")
    if "tool_calls" in last:
        raise InvalidRequest("a message with calls is whole; it cannot be continued")
    mark = _MARK
    while mark in source or mark in str(messages):
        mark += "x"
    if is_within_reasoning(last):
        keys = [key for key in REASONING_KEYS if last.get(key)]
        yield [*messages[:-1], {**last, **{key: last[key] + mark for key in keys}}], mark
    yield [*messages[:-1], {**last, "content": _marked(last["content"], mark)}], mark


def reasoning_of(message: Message) -> str:
    """The reasoning of a message, under whichever name; nothing where there is none."""
    found = (message.get(key) for key in REASONING_KEYS)
    return next((text for text in found if isinstance(text, str) and text), "")


def is_within_reasoning(message: Message) -> bool:
    """Whether a message breaks off in its reasoning: there is some, and nothing else."""
    return bool(reasoning_of(message)) and not message.get("content")


def _marked(content: Json, mark: str) -> Json:
    if not isinstance(content, list):
        return f"{content or ''}{mark}"
    if content and content[-1]["type"] == "text":
        return [*content[:-1], {**content[-1], "text": content[-1]["text"] + mark}]
    return [*content, {"type": "text", "text": mark}]
