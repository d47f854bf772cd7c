"""Marks in messages that show where a template put them, without a word of it changing.

The texts of each message are put between marks: a private-use character, the number of the
message, another such character. What is rendered of that, with the marks taken out, must be what
is rendered without; then the places of the marks are where the messages stand. Marks go inside of
the white space around a text, since templates trim.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from samovar.chat.messages import Json
from samovar.types import Message

_PRIVATE_USE = range(0xF000, 0xF900)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mark stands in a prompt, counted in characters without any marks."""

    position: int
    message: int


class Marks:
    """The two characters that make the marks of one conversation."""

    def __init__(self, open_char: str, close_char: str) -> None:
        self._open, self._close = open_char, close_char
        self._pattern = re.compile(f"{open_char}(\\d+){close_char}")

    @classmethod
    def unlike(cls, messages: Sequence[Message], source: str) -> Marks | None:
        """Characters that neither the messages nor the template hold; None: there are none."""
        taken = json.dumps(messages, ensure_ascii=False) + source
        free = (
            chr(code)
            for code in _PRIVATE_USE
            if chr(code) not in taken and f"\\u{code:04x}" not in taken
        )
        found = list(islice(free, 2))
        return cls(*found) if len(found) == 2 else None

    def put_into(self, messages: Sequence[Message]) -> list[Message]:
        """Copies of the messages, marked."""
        return [self._marked(message, number) for number, message in enumerate(messages)]

    def taken_out(self, rendered: str) -> tuple[str, list[Place]]:
        """What is rendered without the marks, and where they stood."""
        for char in (self._open, self._close):  # as JSON of ASCII alone spells it
            rendered = rendered.replace(f"\\u{ord(char):04x}", char)
        pieces: list[str] = []
        places: list[Place] = []
        size = end = 0
        for match in self._pattern.finditer(rendered):
            pieces.append(rendered[end : match.start()])
            size += len(pieces[-1])
            end = match.end()
            places.append(Place(size, int(match[1])))
        return "".join([*pieces, rendered[end:]]), places

    def _marked(self, message: Message, number: int) -> Message:
        result = {**message, "content": self._content(message["content"], number)}
        if message["role"] != "assistant":
            return result
        if isinstance(message.get("reasoning_content"), str):
            result["reasoning_content"] = self._around(message["reasoning_content"], number)
        if "tool_calls" in message:
            result["tool_calls"] = [self._call(call, number) for call in message["tool_calls"]]
        return result

    def _content(self, content: Json, number: int) -> Json:
        if isinstance(content, str):
            return self._around(content, number)
        if isinstance(content, list):
            return [
                {**part, "text": self._around(part["text"], number)}
                if part["type"] == "text"
                else part
                for part in content
            ]
        return content

    def _call(self, call: dict[str, Any], number: int) -> dict[str, Any]:
        function = call["function"]
        return {**call, "function": {**function, "name": self._around(function["name"], number)}}

    def _around(self, text: str, number: int) -> str:
        core = text.strip()
        if not core:
            return text
        mark = f"{self._open}{number}{self._close}"
        start = text.index(core)
        return f"{text[:start]}{mark}{core}{mark}{text[start + len(core) :]}"
