"""Events as a stream of Anthropic's.

    message_start, ping, (content_block_start, content_block_delta*, content_block_stop)*,
    message_delta, message_stop

One block is open at a time, and blocks are numbered as they come. What the prompt took is told in
message_start, which therefore waits until that is known; what was generated, in message_delta.
"""

from __future__ import annotations

from typing import Any

import msgspec

from samovar.api.anthropic.answer import TEXT, AnswerTo, Place, new_call_id, piece_of
from samovar.api.anthropic.ending import input_of, stop_of, usage_of
from samovar.api.anthropic.failures import error
from samovar.api.anthropic.signing import Signature, Signer
from samovar.api.wire import SSE
from samovar.types import Begun, Event, Failed, Finished, ReasoningDelta, TextDelta, ToolCallDelta

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
WAITING = b": waiting\n\n"
"""A comment: an accumulator of events wants message_start to be the first of them."""
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_DELTAS = {
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "tool_use": ("input_json_delta", "partial_json"),
}
_TAIL = b"}}\n\n"

_encode = msgspec.json.Encoder().encode


class MessagesEncoder:
    """The Encoder of one answer."""

    media_type = SSE

    def __init__(self, answer: AnswerTo, signer: Signer) -> None:
        self._answer = answer
        self._signer = signer
        self._prompt: Begun | None = None
        self._has_begun = False
        self._place: Place | None = None
        self._index = -1
        self._head = b""
        """Of a delta of the open block, up to its text."""
        self._signature: Signature | None = None
        self._thinking_tokens = 0
        self._has_calls = False

    def feed(self, event: Event) -> bytes:
        """See Encoder."""
        if type(event) is TextDelta and self._place is TEXT and event.text and not event.choice:
            return self._head + _encode(event.text) + _TAIL  # nearly all there are
        if isinstance(event, Failed):
            return frame("error", error(event, self._answer.request_id))
        if isinstance(event, Finished):
            return self._begin() + self._close() + self._end(event)
        if isinstance(event, ReasoningDelta):
            self._thinking_tokens += len(event.tokens)
        if isinstance(event, Begun):
            self._prompt = event
            return b""
        piece = piece_of(event)
        if piece is None:
            return self._begin()
        place, text = piece
        opened = b"" if place == self._place else self._open(place, event)
        return opened + self._delta(text)

    def ping(self) -> bytes:
        """See Encoder. It begins the stream, once it is known what the prompt takes."""
        if self._has_begun:
            return PING
        return WAITING if self._prompt is None else self._begin()

    # ---- the parts of a stream ----------------------------------------------------------------

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        prompt = self._prompt or Begun("", 0)  # of a request that ended while it waited
        counts = input_of(prompt, is_stored=self._answer.is_stored)
        usage = {**counts, "output_tokens": 0, "service_tier": "standard"}
        message = message_of(self._answer, [], (None, None), usage)
        return frame("message_start", {"message": message}) + PING

    def _open(self, place: Place, event: Event) -> bytes:
        closed = self._begin() + self._close()
        self._place = place
        self._index += 1
        block: dict[str, Any]
        match place.kind:
            case "thinking":
                self._signature = self._signer.begin()
                block = {"type": "thinking", "thinking": "", "signature": ""}
            case "text":
                block = {"type": "text", "text": ""}
            case "tool_use":
                assert isinstance(event, ToolCallDelta)
                self._has_calls = True
                block = {"type": "tool_use", "id": new_call_id(), "name": event.name, "input": {}}
        self._head = self._delta_head(*_DELTAS[place.kind])
        return closed + frame("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, text: str) -> bytes:
        if self._signature is not None:
            if not self._answer.shows_thinking:
                return b""
            self._signature.feed(text)
        return self._head + _encode(text) + _TAIL

    def _close(self) -> bytes:
        if self._place is None:
            return b""
        signed = b""
        if self._signature is not None:
            head = self._delta_head("signature_delta", "signature")
            signed = head + _encode(self._signature.text()) + _TAIL
        self._place = self._signature = None
        return signed + frame("content_block_stop", {"index": self._index})

    def _end(self, end: Finished) -> bytes:
        answer = self._answer
        reason, sequence = stop_of(end, max_tokens=answer.max_tokens, has_calls=self._has_calls)
        usage = usage_of(end.usage, self._thinking_tokens, is_stored=answer.is_stored)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        return frame("message_delta", {"delta": delta, "usage": usage}) + STOP

    def _delta_head(self, kind: str, field: str) -> bytes:
        return (
            'event: content_block_delta\ndata: {"type":"content_block_delta",'
            f'"index":{self._index},"delta":{{"type":"{kind}","{field}":'
        ).encode()


def frame(name: str, fields: dict[str, Any]) -> bytes:
    """An event of the stream."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode({"type": name, **fields}))


def message_of(
    answer: AnswerTo,
    content: list[Any],
    stop: tuple[str | None, str | None],
    usage: dict[str, Any],
) -> dict[str, Any]:
    """A message, whether it is only beginning or whole."""
    return {
        "id": answer.message_id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": stop[0],
        "stop_sequence": stop[1],
        "usage": usage,
        "diagnostics": answer.diagnostics,
    }
