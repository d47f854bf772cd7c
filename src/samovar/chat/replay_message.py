"""What of a message is the same whoever sends it back, and digests of conversations made of that.

Clients change much of what they were told: they write arguments of calls anew, with other spacing,
another order of keys and other escapes, give calls other ids, cut white space off, and leave the
reasoning out. None of this is another turn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from samovar.chat.messages import Json, plain_messages
from samovar.chat.parser import Call, Content, Piece, Reasoning
from samovar.chat.traits import REASONING_KEYS
from samovar.types import Message

_EXACT = 2**53  # from here on JavaScript's numbers are not what they were


@dataclass(frozen=True, slots=True)
class Said:
    """What an assistant said in one turn, without what may change on its way."""

    content: str
    reasoning: str
    calls: tuple[tuple[str, str], ...]
    """Name, and arguments as JSON of one spelling."""

    def texts(self) -> Iterable[str]:
        """Every text in it."""
        yield from (self.content, self.reasoning)
        for call in self.calls:
            yield from call


def said_in(message: Message) -> Said:
    """What an assistant's plain message says."""
    return Said(
        _text(message.get("content")).strip(),
        _reasoning(message).strip(),
        tuple(
            (call["function"]["name"], _spelled(call["function"]["arguments"]))
            for call in message.get("tool_calls", [])
        ),
    )


def message_of(pieces: Sequence[Piece]) -> Message:
    """The message that a client makes of a turn; plain."""
    message: Message = {"role": "assistant"}
    message["content"] = "".join(one.text for one in pieces if isinstance(one, Content)).strip()
    reasoning = "".join(one.text for one in pieces if isinstance(one, Reasoning)).strip()
    if reasoning:
        message["reasoning_content"] = reasoning
    calls = [one for one in pieces if isinstance(one, Call)]
    if calls:
        message["tool_calls"] = [
            {"function": {"name": one.name, "arguments": one.arguments}} for one in calls
        ]
    return plain_messages([message])[0]


def restored(sent: Message, told: Message) -> Message:
    """A message as it was told, with all that the client added; both say the same.

    Reasoning that the client left out is there again, and arguments have the model's order.
    """
    message = {**sent, "content": told["content"]}
    if not _reasoning(sent) and "reasoning_content" in told:
        message["reasoning_content"] = told["reasoning_content"]
    if "tool_calls" in told:
        message["tool_calls"] = [
            {**own, "function": {**own["function"], **call["function"]}}
            for own, call in zip(sent["tool_calls"], told["tool_calls"], strict=True)
        ]
    return message


def context(salt: str) -> bytes:
    """The digest of no messages at all; conversations of different salts never meet."""
    return _digest(b"turns", salt)


def extended(before: bytes, message: Message) -> bytes:
    """The digest of a conversation with one message more: of an assistant's what it said aloud."""
    if message["role"] != "assistant":
        return _digest(before, _spelled(_plainly(message)))
    said = said_in(message)
    return _digest(before, json.dumps(["assistant", said.content, said.calls]))


def _digest(before: bytes, text: str) -> bytes:
    return hashlib.sha256(before + text.encode("utf-8", "replace")).digest()


def _plainly(message: Message) -> Json:
    kept = {key: value for key, value in message.items() if key not in ("tool_call_id", "id")}
    content = message.get("content")
    return {**kept, "content": _text(content) if _is_text(content) else content}


def _is_text(content: Json) -> bool:
    return not isinstance(content, list) or all(part["type"] == "text" for part in content)


def _text(content: Json) -> str:
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part["type"] == "text")
    return content if isinstance(content, str) else ""


def _reasoning(message: Message) -> str:
    found = (message[key] for key in REASONING_KEYS if message.get(key))
    return next((one for one in found if isinstance(one, str)), "")


def _spelled(value: Json) -> str:
    if isinstance(value, str):
        return value.strip()
    return json.dumps(_numbered(value), sort_keys=True, separators=(",", ":"))


def _numbered(value: Json) -> Json:
    """With whole numbers as such: clients in JavaScript write 1.0 as 1."""
    if isinstance(value, dict):
        return {key: _numbered(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbered(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value
