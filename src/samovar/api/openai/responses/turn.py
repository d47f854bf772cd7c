"""A response as it comes into being: events go in, typed events come out, the object is there.

What is guaranteed for whatever comes in: sequence numbers count from 0 without a gap; every item
and part that opens also closes, before the next one opens and before the end; the object at the
end is what the deltas add up to; nothing follows the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from samovar.api.openai.logprobs import Pieces, chat_logprobs
from samovar.api.openai.responses.output import (
    CallItem,
    CustomCallItem,
    Item,
    ItemStatus,
    Json,
    MessageItem,
    ReasoningItem,
    Said,
)
from samovar.api.openai.usage import Tally
from samovar.types import (
    Begun,
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
)

Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]

_STATUS: dict[FinishReason, Status] = {
    "stop": "completed",
    "tool_calls": "completed",
    "length": "incomplete",
    "cancelled": "cancelled",
}


@dataclass(frozen=True, slots=True)
class Head:
    """What a response is before anything has come of it."""

    response_id: str
    created_at: int
    """Seconds since 1970."""
    echo: Mapping[str, object]
    """What the object says of its request: model, tools, temperature and so on."""
    namespaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """By what the model calls them: the namespaces of functions, and their names there."""
    customs: Set[str] = frozenset()
    """Names of tools that take free text."""
    has_summary: bool = False
    is_sealed: bool = False
    """The reasoning comes as `encrypted_content` as well."""
    has_logprobs: bool = False


Clock = Callable[[], int]
"""Seconds since 1970."""

Ids = Callable[[str], str]
"""A new id that begins so."""


@dataclass(slots=True)
class Turn:
    """One response. `begin` once, then `feed` every event of its request."""

    head: Head
    new_id: Ids
    clock: Clock
    pieces: Pieces = field(default_factory=dict)
    """Bytes of tokens, by id: of those at least whose log-probabilities come."""
    status: Status = "in_progress"
    has_begun: bool = False
    completed_at: int | None = None
    """Seconds since 1970; None: it is not completed."""
    _items: list[Item] = field(default_factory=list)
    _call: int | None = None
    """The number of the call that is open."""
    _number: int = 0
    _tally: Tally = field(default_factory=Tally)
    _error: Json | None = None

    @property
    def is_over(self) -> bool:
        """Whether the terminal event has come."""
        return self.status != "in_progress"

    def output(self) -> list[Json]:
        """The items as they stand."""
        return [item.as_json() for item in self._items]

    def response(self) -> Json:
        """The response object as it stands."""
        head = self.head
        is_cut = self.status == "incomplete"
        return {
            "id": head.response_id,
            "object": "response",
            "created_at": head.created_at,
            "status": self.status,
            "completed_at": self.completed_at,
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            **head.echo,
            "output": self.output(),
            "usage": self._usage(),
            **self._ours(),
        }

    def begin(self) -> list[Json]:
        """The events before anything has come; nothing the second time."""
        if self.has_begun:
            return []
        self.has_begun = True
        kinds = ("response.created", "response.in_progress")
        return [self._numbered(kind, {"response": self.response()}) for kind in kinds]

    def feed(self, event: Event) -> list[Json]:
        """The typed events that an event is."""
        if self.is_over or isinstance(event, Begun):
            return []
        self._tally.feed(event)
        said = [] if self.has_begun else self.begin()
        return said + [self._numbered(kind, fields) for kind, fields in self._fed(event)]

    # ---- events -------------------------------------------------------------------------------

    def _fed(self, event: Event) -> Said:
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                if text:
                    yield from self._text(text, logprobs if self.head.has_logprobs else ())
            case ReasoningDelta(text=text):
                if text:
                    yield from self._reasoning(text)
            case ToolCallDelta():
                yield from self._tool_call(event)
            case Finished():
                yield from self._finished(event)
            case Failed():
                yield from self._failed(event)

    def _text(self, text: str, logprobs: tuple[TokenLogprobs, ...]) -> Said:
        item = self._open_item()
        if not isinstance(item, MessageItem):
            yield from self._close("completed")
            item = self._new_message()
            yield from item.opened()
        told = chat_logprobs(logprobs, self.pieces).content
        yield from item.more(text, msgspec.to_builtins(told))

    def _reasoning(self, text: str) -> Said:
        item = self._open_item()
        if not isinstance(item, ReasoningItem):
            yield from self._close("completed")
            item = ReasoningItem(
                self.new_id("rs_"),
                len(self._items),
                has_summary=self.head.has_summary,
                is_sealed=self.head.is_sealed,
            )
            self._items.append(item)
            yield from item.opened()
        yield from item.more(text)

    def _tool_call(self, event: ToolCallDelta) -> Said:
        item = self._open_item()
        if not isinstance(item, CallItem) or event.call != self._call:
            yield from self._close("completed")
            item = self._new_call(event.name)
            self._call = event.call
            yield from item.opened()
        if event.arguments:
            yield from item.more(event.arguments)

    def _finished(self, event: Finished) -> Said:
        reason = event.choices[0].reason if event.choices else "stop"
        status = _STATUS[reason]
        is_whole: ItemStatus = "completed" if status == "completed" else "incomplete"
        if not self._items:  # clients read output[0] without looking
            yield from self._new_message().opened()
        yield from self._close(is_whole)
        self.status = status
        if status == "completed":
            self.completed_at = self.clock()
        kind = "response.completed" if status == "completed" else "response.incomplete"
        yield kind, {"response": self.response()}

    def _failed(self, event: Failed) -> Said:
        yield from self._close("incomplete")
        self.status = "failed"
        self._error = {"code": error_code(event.code), "message": event.message}
        yield "error", {"code": event.code, "message": event.message, "param": None}
        yield "response.failed", {"response": self.response()}

    # ---- items --------------------------------------------------------------------------------

    def _new_message(self) -> MessageItem:
        ids = self.new_id("msg_"), len(self._items)
        item = MessageItem(*ids, has_logprobs=self.head.has_logprobs)
        self._items.append(item)
        return item

    def _new_call(self, called: str) -> CallItem:
        namespace, name = self.head.namespaces.get(called, (None, called))
        index = len(self._items)
        item: CallItem
        if called in self.head.customs:
            item = CustomCallItem(self.new_id("ctc_"), index, self.new_id("call_"), name)
        else:
            item = CallItem(self.new_id("fc_"), index, self.new_id("call_"), name, namespace)
        self._items.append(item)
        return item

    def _open_item(self) -> Item | None:
        last = self._items[-1] if self._items else None
        return last if last is not None and last.status == "in_progress" else None

    def _close(self, status: ItemStatus) -> Said:
        item = self._open_item()
        if isinstance(item, (MessageItem, ReasoningItem, CallItem)):
            yield from item.closed(status)

    def _numbered(self, kind: str, fields: Json) -> Json:
        number = self._number
        self._number += 1
        return {"type": kind, "sequence_number": number, **fields}

    # ---- what it took -------------------------------------------------------------------------

    def _usage(self) -> Json | None:
        """What it took. Nobody counts what was written to the cache by request."""
        if not self.is_over or self.status == "failed":
            return None
        took = self._tally.usage()
        cached = took.prompt_tokens_details.cached_tokens
        return {
            "input_tokens": took.prompt_tokens,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": took.completion_tokens,
            "output_tokens_details": msgspec.to_builtins(took.completion_tokens_details),
            "total_tokens": took.total_tokens,
        }

    def _ours(self) -> Json:
        told = {"timings": self._tally.timings(), "samovar": self._tally.details()}
        return {name: msgspec.to_builtins(one) for name, one in told.items() if one is not None}


_SAME = frozenset({"context_length_exceeded"})  # not in OpenAI's list, but what its server says
_BUSY = frozenset({"overloaded", "rate_limited", "unavailable"})
_PROMPT = frozenset(
    {
        "invalid_request",
        "invalid_token",
        "grammar_rejected",
        "template_error",
        "template_missing",
        "operation_unsupported",
        "adapter_rejected",
    }
)


def error_code(code: str) -> str:
    """A code in the words of a response's `error`, of which OpenAI has few."""
    if code in _SAME:
        return code
    if code in _BUSY:
        return "rate_limit_exceeded"
    return "invalid_prompt" if code in _PROMPT else "server_error"
