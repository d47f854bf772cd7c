"""Events as one message of Anthropic's: what a stream of them would add up to."""

from __future__ import annotations

from typing import Any

import msgspec

from samovar.api.anthropic.answer import AnswerTo, Place, new_call_id, piece_of
from samovar.api.anthropic.encoder import message_of
from samovar.api.anthropic.ending import stop_of, usage_of
from samovar.api.anthropic.signing import Signer
from samovar.types import Event, Finished, ReasoningDelta, ToolCallDelta


class MessageCollector:
    """The Collector of one answer."""

    def __init__(self, answer: AnswerTo, signer: Signer) -> None:
        self._answer = answer
        self._signer = signer
        self._blocks: list[tuple[Place, str, list[str]]] = []
        """Place, the name of a call, and the pieces of text or arguments."""
        self._thinking_tokens = 0
        self._end: Finished | None = None

    def feed(self, event: Event) -> None:
        """See Collector."""
        if isinstance(event, Finished):
            self._end = event
            return
        if isinstance(event, ReasoningDelta):
            self._thinking_tokens += len(event.tokens)
        piece = piece_of(event)
        if piece is None:
            return
        place, text = piece
        if not self._blocks or self._blocks[-1][0] != place:
            name = event.name if isinstance(event, ToolCallDelta) else ""
            self._blocks.append((place, name, []))
        self._blocks[-1][2].append(text)

    def body(self) -> bytes:
        """See Collector."""
        assert self._end is not None, "a body is asked for after the terminal event"
        answer = self._answer
        has_calls = any(place.kind == "tool_use" for place, _, _ in self._blocks)
        usage = usage_of(self._end.usage, self._thinking_tokens, is_stored=answer.is_stored)
        message = message_of(
            answer,
            [self._block(place, name, "".join(pieces)) for place, name, pieces in self._blocks],
            stop_of(self._end, max_tokens=answer.max_tokens, has_calls=has_calls),
            {**usage, "service_tier": "standard"},
        )
        return msgspec.json.encode(message)

    def _block(self, place: Place, name: str, text: str) -> dict[str, Any]:
        match place.kind:
            case "text":
                return {"type": "text", "text": text}
            case "thinking":
                shown = text if self._answer.shows_thinking else ""
                return {
                    "type": "thinking",
                    "thinking": shown,
                    "signature": self._signer.sign(shown),
                }
        return {
            "type": "tool_use",
            "id": new_call_id(),
            "name": name,
            "input": msgspec.Raw((text or "{}").encode()),
        }
