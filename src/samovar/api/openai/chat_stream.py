"""Events of a chat as a stream of chunks."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from samovar.api.openai.chat_output import (
    FINGERPRINT,
    ChatForm,
    Chunk,
    ChunkChoice,
    Delta,
    Function,
    Head,
    ToolCall,
    call_id,
    stop_reason,
    wire_reason,
)
from samovar.api.openai.logprobs import ChatLogprobs, chat_logprobs
from samovar.api.openai.sse import DONE, PING, data_of, encoded, failed_stream
from samovar.api.openai.usage import Details, Tally, WireTimings, WireUsage
from samovar.api.wire import SSE
from samovar.types import Event, Failed, Finished, ReasoningDelta, TextDelta, ToolCallDelta

_NO_TEXT = b'"content":""'  # as it stands in a chunk, and in no string: quotes are escaped there


class ChatEncoder:
    """An Encoder. Each choice begins with its role and ends with its reason."""

    media_type = SSE

    def __init__(self, head: Head, form: ChatForm) -> None:
        self._head = head
        self._form = form
        self._tally = Tally()
        self._frames: dict[int, tuple[bytes, bytes]] = {}
        """By choice that has begun: what stands before and behind the text of a chunk."""
        self._calls: set[tuple[int, int]] = set()
        """(choice, call) of every call whose name was told."""

    def feed(self, event: Event) -> bytes:
        """See Encoder."""
        if type(event) is TextDelta and event.text and not event.logprobs:  # nearly all there are
            frame = self._frames.get(event.choice)
            if frame is not None:
                return frame[0] + encoded(event.text) + frame[1]
        self._tally.feed(event)
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                return b"".join(self._delta(event))
            case Finished():
                return b"".join(self._end(event)) + DONE
            case Failed():
                return failed_stream(event)
        return b""

    def ping(self) -> bytes:
        """See Encoder: a comment, which every client overlooks."""
        return PING

    def _delta(self, event: TextDelta | ReasoningDelta | ToolCallDelta) -> Iterator[bytes]:
        match event:
            case TextDelta():
                logprobs = self._logprobs(event)
                if event.text or logprobs is not None:
                    yield from self._begin(event.choice)
                    yield self._chunk(event.choice, Delta(content=event.text), logprobs)
            case ReasoningDelta() if event.text:
                yield from self._begin(event.choice)
                text = event.text
                yield self._chunk(event.choice, Delta(reasoning_content=text, reasoning=text))
            case ToolCallDelta() if event.name or event.arguments:
                yield from self._begin(event.choice)
                yield self._chunk(event.choice, self._call(event))

    def _begin(self, choice: int) -> Iterator[bytes]:
        if choice not in self._frames:
            before, _, behind = self._chunk(choice, Delta(content="")).rpartition(_NO_TEXT)
            self._frames[choice] = before + _NO_TEXT[:-2], behind
            yield self._chunk(choice, Delta(role="assistant", content=""))

    def _call(self, event: ToolCallDelta) -> Delta:
        is_first = (event.choice, event.call) not in self._calls
        self._calls.add((event.choice, event.call))
        name = event.name if is_first else UNSET
        function = Function(name=name, arguments=event.arguments)
        if self._form.wants_functions:
            return Delta(function_call=function)
        made = call_id(self._head.id, event.choice, event.call)
        call = ToolCall(
            index=event.call,
            id=made if is_first else UNSET,
            type="function" if is_first else UNSET,
            function=function,
        )
        return Delta(tool_calls=(call,))

    def _logprobs(self, event: TextDelta) -> ChatLogprobs | None:
        if self._form.pieces is None or not event.logprobs:
            return None
        return chat_logprobs(event.logprobs, self._form.pieces)

    def _end(self, event: Finished) -> Iterator[bytes]:
        last = len(event.choices) - 1
        for index, choice in enumerate(event.choices):
            yield from self._begin(index)
            reason = wire_reason(choice.reason, wants_functions=self._form.wants_functions)
            ended = ChunkChoice(index, Delta(), None, reason, stop_reason(choice.stop))
            if index < last:
                yield self._of(ended)
            else:
                yield self._of(ended, timings=self._tally.timings(), details=self._tally.details())
        if self._form.includes_usage:
            yield self._of(usage=self._tally.usage())

    def _chunk(self, index: int, delta: Delta, logprobs: ChatLogprobs | None = None) -> bytes:
        return self._of(ChunkChoice(index, delta, logprobs))

    def _of(
        self,
        *choices: ChunkChoice,
        usage: WireUsage | None = None,
        timings: WireTimings | None = None,
        details: Details | None = None,
    ) -> bytes:
        head = self._head
        return data_of(
            Chunk(
                head.id,
                "chat.completion.chunk",
                head.created,
                head.model,
                FINGERPRINT,
                choices,
                usage or UNSET,
                timings or UNSET,
                details or UNSET,
            )
        )
