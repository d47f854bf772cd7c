"""The items that an answer is made of, while they grow: what is said when they open, go on, close.

Every method gives the events it takes, as pairs of type and fields; `turn` numbers them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from samovar.api.openai.responses.tools import INPUT

Json = dict[str, Any]
Said = Iterator[tuple[str, Json]]
ItemStatus = Literal["in_progress", "completed", "incomplete"]

SEALED = "samovar:"
"""What our `encrypted_content` begins with: the reasoning itself, in base64. It keeps nothing from
anybody; clients that send nothing else of a reasoning item back then send back what was thought."""


class Item:
    """An item of the output; `index` is its place there."""

    def __init__(self, item_id: str, index: int) -> None:
        self.item_id = item_id
        self.index = index
        self.status: ItemStatus = "in_progress"
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """All that came: of a call, its arguments."""
        return "".join(self._texts)

    def as_json(self) -> Json:
        """The item as it stands."""
        raise NotImplementedError

    def _added(self) -> tuple[str, Json]:
        return "response.output_item.added", {"output_index": self.index, "item": self.as_json()}

    def _done(self, status: ItemStatus) -> tuple[str, Json]:
        self.status = status
        return "response.output_item.done", {"output_index": self.index, "item": self.as_json()}

    def _in_item(self, **fields: Any) -> Json:  # noqa: ANN401
        return {"item_id": self.item_id, "output_index": self.index, **fields}

    def _in_part(self, **fields: Any) -> Json:  # noqa: ANN401
        return self._in_item(content_index=0, **fields)


class MessageItem(Item):
    """What the model says; always one part of text."""

    def __init__(self, item_id: str, index: int, *, has_logprobs: bool = False) -> None:
        super().__init__(item_id, index)
        self._logprobs: list[Json] = []
        self._has_logprobs = has_logprobs
        self._has_part = False

    def as_json(self) -> Json:
        """The item as it stands."""
        return {
            "id": self.item_id,
            "type": "message",
            "status": self.status,
            "role": "assistant",
            "content": [self._part()] if self._has_part else [],
        }

    def opened(self) -> Said:
        """It begins."""
        yield self._added()
        yield "response.content_part.added", self._in_part(part=self._part())
        self._has_part = True

    def more(self, text: str, logprobs: list[Json]) -> Said:
        """It goes on."""
        self._texts.append(text)
        self._logprobs += logprobs
        yield "response.output_text.delta", self._in_part(delta=text, logprobs=logprobs)

    def closed(self, status: ItemStatus) -> Said:
        """It ends."""
        text = self.text
        self._texts = [text]
        yield "response.output_text.done", self._in_part(text=text, logprobs=self._logprobs)
        yield "response.content_part.done", self._in_part(part=self._part())
        yield self._done(status)

    def _part(self) -> Json:
        part: Json = {"type": "output_text", "text": self.text, "annotations": []}
        # Without having been asked for, the list is empty and says nothing: as OpenAI's.
        part["logprobs"] = list(self._logprobs) if self._has_logprobs else []
        return part


class ReasoningItem(Item):
    """What the model thinks: as raw text, and where it was asked for as its own summary too."""

    def __init__(
        self, item_id: str, index: int, *, has_summary: bool = False, is_sealed: bool = False
    ) -> None:
        super().__init__(item_id, index)
        self._has_summary = has_summary
        self._is_sealed = is_sealed
        self._has_part = False

    def as_json(self) -> Json:
        """The item as it stands."""
        text = self.text
        has_summary = self._has_summary and self._has_part
        item: Json = {
            "id": self.item_id,
            "type": "reasoning",
            "status": self.status,
            "summary": [{"type": "summary_text", "text": text}] if has_summary else [],
            "content": [{"type": "reasoning_text", "text": text}] if self._has_part else [],
        }
        if self._is_sealed:
            item["encrypted_content"] = sealed(text)
        return item

    def opened(self) -> Said:
        """It begins."""
        yield self._added()
        self._has_part = True
        yield "response.content_part.added", self._in_part(part=self._part("reasoning_text", ""))
        if self._has_summary:
            part = self._part("summary_text", "")
            yield "response.reasoning_summary_part.added", self._in_summary(part=part)

    def more(self, text: str) -> Said:
        """It goes on."""
        self._texts.append(text)
        yield "response.reasoning_text.delta", self._in_part(delta=text)
        if self._has_summary:
            yield "response.reasoning_summary_text.delta", self._in_summary(delta=text)

    def closed(self, status: ItemStatus) -> Said:
        """It ends."""
        text = self.text
        self._texts = [text]
        yield "response.reasoning_text.done", self._in_part(text=text)
        part = self._part("reasoning_text", text)
        yield "response.content_part.done", self._in_part(part=part)
        if self._has_summary:
            yield "response.reasoning_summary_text.done", self._in_summary(text=text)
            part = self._part("summary_text", text)
            yield "response.reasoning_summary_part.done", self._in_summary(part=part)
        yield self._done(status)

    def _part(self, kind: str, text: str) -> Json:
        return {"type": kind, "text": text}

    def _in_summary(self, **fields: Any) -> Json:  # noqa: ANN401
        return self._in_item(summary_index=0, **fields)


class CallItem(Item):
    """A call of a function."""

    def __init__(
        self, item_id: str, index: int, call_id: str, name: str, namespace: str | None = None
    ) -> None:
        super().__init__(item_id, index)
        self.call_id = call_id
        self._of_namespace = {} if namespace is None else {"namespace": namespace}
        self.name = name

    def as_json(self) -> Json:
        """The item as it stands."""
        return {
            "id": self.item_id,
            "type": "function_call",
            "status": self.status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.text,
            **self._of_namespace,
        }

    def opened(self) -> Said:
        """It begins."""
        yield self._added()

    def more(self, arguments: str) -> Said:
        """It goes on."""
        self._texts.append(arguments)
        yield "response.function_call_arguments.delta", self._in_item(delta=arguments)

    def closed(self, status: ItemStatus) -> Said:
        """It ends. A call that came whole and without arguments has those of an empty object."""
        if status == "completed" and not self.text:
            yield from self.more("{}")
        text = self.text
        self._texts = [text]
        done = self._in_item(name=self.name, arguments=text)
        yield "response.function_call_arguments.done", done
        yield self._done(status)


class CustomCallItem(CallItem):
    """A call of a tool that takes free text: the model writes it as an argument, which is JSON."""

    def as_json(self) -> Json:
        """The item as it stands; its input, once it is there."""
        return {
            "id": self.item_id,
            "type": "custom_tool_call",
            "status": self.status,
            "call_id": self.call_id,
            "name": self.name,
            "input": "" if self.status == "in_progress" else self._input(),
        }

    def more(self, arguments: str) -> Said:
        """It goes on; nothing of it is told before it can be read."""
        self._texts.append(arguments)
        yield from ()

    def closed(self, status: ItemStatus) -> Said:
        """It ends."""
        text = self._input()
        if text:
            yield "response.custom_tool_call_input.delta", self._in_item(delta=text)
        yield "response.custom_tool_call_input.done", self._in_item(input=text)
        yield self._done(status)

    def _input(self) -> str:
        """The input; what the model wrote, where that is not what it should be, or was cut off."""
        text = self.text
        try:
            return msgspec.json.decode(text, type=dict[str, str])[INPUT]
        except (msgspec.MsgspecError, KeyError):
            return text


def sealed(text: str) -> str:
    """Reasoning as `encrypted_content`."""
    return SEALED + base64.b64encode(text.encode()).decode()


def unsealed(content: str) -> str | None:
    """The reasoning in an `encrypted_content`; None: it is not of ours."""
    if not content.startswith(SEALED):
        return None
    try:
        return base64.b64decode(content.removeprefix(SEALED), validate=True).decode()
    except ValueError:
        return None
