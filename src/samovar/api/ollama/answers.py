"""Events as Ollama's records: one line each in a stream, or all of them as one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from samovar.api.ollama.failures import error_body
from samovar.api.wire import NDJSON
from samovar.types import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
    Usage,
)

_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "stop",
    "cancelled": "stop",
}
_NO_TIME, _NO_TEXT = b'"created_at":""', b'""'  # as they stand in a record without either
_LEAST = -9999.0  # instead of minus infinity, which JSON has not

_encode = msgspec.json.Encoder().encode


class Watch:
    """Takes the time of one request, in nanoseconds. Begins when it is made."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._began = clock()
        self.load_ns = 0

    def loaded(self) -> None:
        """The model is there now."""
        self.load_ns = self._clock() - self._began

    def durations(self, usage: Usage) -> dict[str, int]:
        """What took how long. The parts never are more than the whole."""
        timings = usage.timings
        prompt = _ns(timings.restore_seconds + timings.prefill_seconds)
        answer = _ns(timings.decode_seconds)
        total = max(self._clock() - self._began, self.load_ns + prompt + answer)
        return {
            "total_duration": total,
            "load_duration": self.load_ns,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": prompt,
            "eval_count": usage.generated_tokens,
            "eval_duration": answer,
        }


@lru_cache(maxsize=1)  # the tokens of a step come together
def _stamp(milliseconds: int) -> bytes:
    return _encode(datetime.fromtimestamp(milliseconds / 1000, UTC))


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer."""

    text: str = ""
    thinking: str = ""
    calls: tuple[dict[str, Any], ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(slots=True)
class Head:
    """What records hold besides the answer. Whoever serves the request fills in the rest."""

    model: str
    """As the client called it."""
    watch: Watch = field(default_factory=Watch)
    warnings: list[str] = field(default_factory=list)
    prompt: list[int] | None = None
    """The ids of the prompt, where `context` is to be given; known by the end."""
    pieces: Mapping[int, bytes] = field(default_factory=dict)
    """The bytes of the ids in log-probabilities; known before the event that has them."""

    def record(self, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        """A record of these fields."""
        return {"model": self.model, "created_at": datetime.now(UTC), **fields}


class Shape:
    """Where the parts of an answer go in a record."""

    def fields(self, piece: Piece) -> dict[str, Any]:
        """The fields of a part."""
        raise NotImplementedError


class ChatShape(Shape):
    """That of /api/chat."""

    def fields(self, piece: Piece) -> dict[str, Any]:
        """A message."""
        message: dict[str, Any] = {"role": "assistant", "content": piece.text}
        if piece.thinking:
            message["thinking"] = piece.thinking
        if piece.calls:
            message["tool_calls"] = piece.calls
        return {"message": message}


class GenerateShape(Shape):
    """That of /api/generate, which has no tools."""

    def fields(self, piece: Piece) -> dict[str, Any]:
        """A text."""
        found = {"response": piece.text}
        return {**found, "thinking": piece.thinking} if piece.thinking else found


class Turn:
    """Events as parts of an answer; a call is told when it is whole."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        """What was generated."""
        self._call: int | None = None
        self._name = ""
        self._arguments: list[str] = []
        self._num_calls = 0

    def is_only_text(self, event: TextDelta) -> bool:
        """Whether the event is a part that is nothing but its text, and ends no call."""
        return bool(event.text and not event.choice and not event.logprobs and self._call is None)

    def take(self, event: Event) -> list[Piece]:
        """The parts that are complete with this event."""
        if isinstance(event, Finished):
            return self._ended()
        if getattr(event, "choice", 0) != 0:
            return []
        if isinstance(event, ToolCallDelta):
            return self._more(event)
        if not isinstance(event, TextDelta | ReasoningDelta):
            return []
        self.tokens += event.tokens
        if not event.text and not event.logprobs:
            return []
        is_text = isinstance(event, TextDelta)
        text, thinking = (event.text, "") if is_text else ("", event.text)
        return [*self._ended(), Piece(text, thinking, logprobs=event.logprobs)]

    def _more(self, event: ToolCallDelta) -> list[Piece]:
        self.tokens += event.tokens
        before = self._ended() if event.call != self._call else []
        self._call = event.call
        self._name = self._name or event.name
        self._arguments.append(event.arguments)
        return before

    def _ended(self) -> list[Piece]:
        """The call that was being told, if there was one."""
        if self._call is None:
            return []
        name, text = self._name, "".join(self._arguments)
        self._call, self._name, self._arguments = None, "", []
        arguments = _object(text)
        if arguments is None:
            return [Piece(text=text)]  # cut off, or no JSON: nothing is lost, and nothing called
        index, self._num_calls = self._num_calls, self._num_calls + 1
        function = {"index": index, "name": name, "arguments": arguments}
        return [Piece(calls=({"id": f"call_{index}", "function": function},))]


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class RecordEncoder:
    """A stream of records, each a line."""

    media_type = NDJSON

    def __init__(self, head: Head, shape: Shape) -> None:
        self._head = head
        self._shape = shape
        self._turn = Turn()
        self._text_line: tuple[bytes, bytes, bytes] | None = None
        """Before, between and behind the time and the text of a line that has nothing else."""

    def feed(self, event: Event) -> bytes:
        """The lines of an event."""
        if type(event) is TextDelta and self._turn.is_only_text(event):  # nearly all there are
            return self._text(event)
        if isinstance(event, Failed):
            return error_body(event.message) + b"\n"
        pieces = self._turn.take(event)
        records = [self._record(piece, done=False) for piece in pieces]
        if isinstance(event, Finished):
            last = self._record(Piece(), done=True)
            records.append({**last, **_ending(self._head, self._turn, event)})
        return b"".join(_encode(one) + b"\n" for one in records)

    def ping(self) -> bytes:
        """Nothing: a line is a record, and there is none that says nothing."""
        return b""

    def _text(self, event: TextDelta) -> bytes:
        self._turn.tokens += event.tokens
        if self._text_line is None:
            record = {**self._record(Piece(), done=False), "created_at": ""}
            before, _, rest = _encode(record).partition(_NO_TIME)
            between, _, behind = rest.rpartition(_NO_TEXT)
            self._text_line = before + _NO_TIME[:-2], between, behind + b"\n"
        before, between, behind = self._text_line
        return before + _stamp(time.time_ns() // 10**6) + between + _encode(event.text) + behind

    def _record(self, piece: Piece, *, done: bool) -> dict[str, Any]:
        return _record(self._head, self._shape, piece, done=done)


class RecordCollector:
    """The same as one record."""

    def __init__(self, head: Head, shape: Shape) -> None:
        self._head = head
        self._shape = shape
        self._turn = Turn()
        self._pieces: list[Piece] = []
        self._end: Finished | None = None

    def feed(self, event: Event) -> None:
        """Take one more event."""
        self._pieces += self._turn.take(event)
        if isinstance(event, Finished):
            self._end = event

    def body(self) -> bytes:
        """The record, after the last event."""
        assert self._end is not None
        whole = Piece(
            "".join(one.text for one in self._pieces),
            "".join(one.thinking for one in self._pieces),
            tuple(call for one in self._pieces for call in one.calls),
            tuple(one for piece in self._pieces for one in piece.logprobs),
        )
        record = _record(self._head, self._shape, whole, done=True)
        return _encode({**record, **_ending(self._head, self._turn, self._end)})


def loaded_body(head: Head, shape: Shape, reason: str) -> bytes:
    """The record of a request that asked for nothing but that a model be there (`load`), or go."""
    record = _record(head, shape, Piece(), done=True)
    return _encode({**record, "done_reason": reason})


def _record(head: Head, shape: Shape, piece: Piece, *, done: bool) -> dict[str, Any]:
    record = head.record(**shape.fields(piece), done=done)
    if piece.logprobs:
        record["logprobs"] = _logprobs(piece.logprobs, head.pieces)
    return record


def _ending(head: Head, turn: Turn, event: Finished) -> dict[str, Any]:
    """What only the last record has. The last two fields are ours."""
    found: dict[str, Any] = {"done_reason": _REASONS[event.choices[0].reason]}
    if head.prompt is not None:
        found["context"] = [*head.prompt, *turn.tokens]
    found |= head.watch.durations(event.usage)
    found["prompt_cached_count"] = event.usage.cached.total
    warnings = [*head.warnings, *event.warnings]
    return {**found, "warnings": warnings} if warnings else found


def _logprobs(tokens: Iterable[TokenLogprobs], pieces: Mapping[int, bytes]) -> list[dict[str, Any]]:
    return [
        {
            **_alternative(one.token, one.chosen, pieces),
            "top_logprobs": [_alternative(*other, pieces) for other in one.top],
        }
        for one in tokens
    ]


def _alternative(token: int, logprob: float, pieces: Mapping[int, bytes]) -> dict[str, Any]:
    data = pieces.get(token, b"")
    return {
        "token": data.decode("utf-8", "replace"),
        "logprob": logprob if math.isfinite(logprob) else _LEAST,
        "bytes": list(data),
    }
