"""Items as the messages of a conversation.

What the model said in one go becomes one message of the assistant's: its reasoning, then its text,
then its calls. Later reasoning or text begins another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from samovar.api.openai.responses.items import Item
from samovar.api.openai.responses.output import unsealed
from samovar.api.openai.responses.tools import INPUT, full_name
from samovar.errors import InvalidRequest
from samovar.types import Message

_ABOVE = ("system", "developer")


def messages_of(instructions: str | None, items: Sequence[Item]) -> tuple[Message, ...]:
    """The conversation. Raises InvalidRequest for results of calls that are not there.

    Instructions and the system messages that come first are one message: most templates know only
    one, at the beginning.
    """
    first = [instructions] if instructions else []
    rest = list(items)
    while rest and rest[0].get("role") in _ABOVE:
        first.append(_text_of(rest.pop(0)["content"]))
    made = _Messages()
    if first:
        made.done.append({"role": "system", "content": "\n\n".join(first)})
    for item in rest:
        made.add(item)
    return made.finished()


class _Messages:
    """Messages, the last of which may still grow."""

    def __init__(self) -> None:
        self.done: list[Message] = []
        self._open: Message | None = None
        self._names: dict[str, str] = {}
        """By call_id: the functions that were called."""

    def add(self, item: Item) -> None:
        kind = item["type"]
        if kind == "message":
            self._message(item)
        elif kind == "reasoning":
            self._reasoning(item)
        elif kind == "function_call":
            self._call(item, item["arguments"])
        elif kind == "custom_tool_call":
            self._call(item, msgspec.json.encode({INPUT: item["input"]}).decode())
        else:
            self._output(item)

    def finished(self) -> tuple[Message, ...]:
        self._close()
        return tuple(self.done)

    def _message(self, item: Item) -> None:
        text = _text_of(item["content"])
        if item["role"] != "assistant":
            self._close()
            self.done.append({"role": item["role"], "content": text})
            return
        self._assistant(unless=("content", "tool_calls"))["content"] = text

    def _reasoning(self, item: Item) -> None:
        text = _reasoning_of(item)
        if text:
            keys = ("reasoning_content", "content", "tool_calls")
            self._assistant(unless=keys)["reasoning_content"] = text

    def _call(self, item: Item, arguments: str) -> None:
        name = full_name(item.get("namespace"), item["name"])
        self._names[item["call_id"]] = name
        function = {"name": name, "arguments": arguments}
        call = {"id": item["call_id"], "type": "function", "function": function}
        self._assistant().setdefault("tool_calls", []).append(call)

    def _output(self, item: Item) -> None:
        self._close()
        call_id, output = item["call_id"], item["output"]
        if call_id not in self._names:
            raise InvalidRequest(
                f"a {item['type']} answers a call that is not in the conversation; send the call"
                " before it, or the previous_response_id of the response it came in"
            )
        text = output if isinstance(output, str) else _text_of(output)
        name = self._names[call_id]
        self.done.append({"role": "tool", "tool_call_id": call_id, "name": name, "content": text})

    def _assistant(self, unless: Iterable[str] = ()) -> dict[str, Any]:
        """The assistant's message that is open; another one if it has one of these already."""
        if self._open is not None and any(key in self._open for key in unless):
            self._close()
        if self._open is None:
            self._open = {"role": "assistant"}
        return self._open

    def _close(self) -> None:
        if self._open is not None:
            self._open.setdefault("content", None if "tool_calls" in self._open else "")
            self.done.append(self._open)
            self._open = None


def _text_of(parts: Iterable[Item]) -> str:
    return "\n".join(part["text"] for part in parts)


def _reasoning_of(item: Item) -> str:
    parts = item["content"]
    if not parts:
        hidden = unsealed(item.get("encrypted_content") or "")
        if hidden is not None:
            return hidden
        parts = item["summary"]
    return _text_of(parts)


def shorter(messages: tuple[Message, ...]) -> tuple[Message, ...] | None:
    """The conversation without its oldest eighth, in whole turns; None: there is but one.

    The system's messages at the beginning stay. A turn begins with what the user says, so that no
    result of a call is left without the call.
    """
    first = next((i for i, one in enumerate(messages) if one["role"] not in _ABOVE), len(messages))
    begins = [i for i, one in enumerate(messages) if i > first and one["role"] == "user"]
    if not begins:
        return None
    num_dropped = max(1, (len(begins) + 1) // 8)
    return messages[:first] + messages[begins[num_dropped - 1] :]
