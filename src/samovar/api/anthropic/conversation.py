"""Anthropic's messages as ours: roles merged, results of tools as messages of their own.

    user       text, tool_result         ->  tool*, user
    assistant  thinking, text, tool_use  ->  one message: reasoning, content, calls

Results come before the text of their message, wherever they stand in it: templates want them
right behind the calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from samovar.api.anthropic.blocks import (
    Block,
    RedactedThinkingBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    blocks_of,
    told,
)
from samovar.api.anthropic.schema import Content, TurnFields
from samovar.api.anthropic.signing import Signer
from samovar.errors import InvalidRequest
from samovar.types import Message

Placed = tuple[str, Block]


class Conversation:
    """Reads the messages of one request. Raises InvalidRequest with the place, never the text."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._tools: dict[str, str] = {}
        """Names of tools that were called, by the call's id."""

    def read(self, turns: Sequence[TurnFields], system: Content | None) -> list[Message]:
        """All messages; a last one of the assistant's is there to be continued."""
        messages = list(self._system(blocks_of(system or "", "system")))
        for role, group in groupby(enumerate(turns), key=lambda one: one[1].role):
            blocks = [
                placed
                for index, turn in group
                for placed in blocks_of(turn.content, f"messages[{index}].content")
            ]
            messages += self._turn(role, blocks)
        _check_last(messages)
        return messages

    def _turn(self, role: str, blocks: list[Placed]) -> Iterator[Message]:
        if role == "assistant":
            return self._assistant(blocks)
        return self._system(blocks) if role == "system" else self._user(blocks)

    def _system(self, blocks: list[Placed]) -> Iterator[Message]:
        texts = [told(block, where) for where, block in blocks]
        text = "\n\n".join(one for one in texts if one)
        if text:
            yield {"role": "system", "content": text}

    def _user(self, blocks: list[Placed]) -> Iterator[Message]:
        texts = []
        for where, block in blocks:
            if isinstance(block, ToolResultBlock):
                yield self._result(block, where)
            else:
                texts.append(told(block, where))
        if texts:
            yield {"role": "user", "content": "\n".join(texts)}

    def _result(self, block: ToolResultBlock, where: str) -> Message:
        name = self._tools.get(block.tool_use_id)
        if name is None:
            raise InvalidRequest(
                f"{where}: no tool_use before it has this tool_use_id; send the call as well"
            )
        texts = blocks_of(block.content or "", f"{where}.content")
        text = "\n".join(told(one, place) for place, one in texts)
        if block.is_error and "error" not in text[:64].lower():  # most of them say so themselves
            text = f"Error: {text}"
        return {"role": "tool", "tool_call_id": block.tool_use_id, "name": name, "content": text}

    def _assistant(self, blocks: list[Placed]) -> Iterator[Message]:
        texts, thoughts, calls = [], [], []
        for where, block in blocks:
            match block:
                case ThinkingBlock():
                    if self._signer.is_ours(block.thinking, block.signature):
                        thoughts.append(block.thinking)
                case RedactedThinkingBlock():
                    pass  # nobody but Anthropic can read it
                case ToolUseBlock():
                    self._tools[block.id] = block.name
                    function = {"name": block.name, "arguments": block.input}
                    calls.append({"id": block.id, "type": "function", "function": function})
                case _:
                    texts.append(told(block, where))
        message: Message = {"role": "assistant", "content": "".join(texts)}
        if any(thoughts):
            message["reasoning_content"] = "".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        if texts or len(message) > 2:
            yield message


def _check_last(messages: list[Message]) -> None:
    """An answer goes on behind text only; one that has not begun is none."""
    if not messages:
        raise InvalidRequest("messages: there is no text in any of them")
    last = messages[-1]
    if last["role"] != "assistant":
        return
    if "tool_calls" in last:
        raise InvalidRequest("messages: the last one calls tools; send their tool_result blocks")
    if not last["content"]:
        messages.pop()
    if not messages:
        raise InvalidRequest("messages: there is nothing to answer")
