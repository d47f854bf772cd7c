"""What encoder and collector have in common: an answer as a row of blocks."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from samovar.types import Event, ReasoningDelta, TextDelta, ToolCallDelta

BlockKind = Literal["thinking", "text", "tool_use"]


@dataclass(frozen=True, slots=True)
class AnswerTo:
    """What an answer has to know of its request."""

    message_id: str
    model: str
    """As it was asked for."""
    max_tokens: int
    shows_thinking: bool = True
    """Else a block of thinking has a signature and no text."""
    is_stored: bool = True
    request_id: str = ""
    """Of the HTTP request: errors name it."""
    diagnostics: dict[str, Any] | None = None
    """What its prompt changed of the one before (see diagnostics)."""


class Place(NamedTuple):
    """Which block an event belongs to; the events of a block follow on each other."""

    kind: BlockKind
    call: int = 0


TEXT, THINKING = Place("text"), Place("thinking")


def piece_of(event: Event) -> tuple[Place, str] | None:
    """The block of an event, and what it adds to it; None: nothing.

    A call says something even without arguments; other choices than the first are not asked for.
    """
    match event:
        case TextDelta(text=text, choice=0) if text:
            return TEXT, text
        case ReasoningDelta(text=text, choice=0) if text:
            return THINKING, text
        case ToolCallDelta(arguments=arguments, choice=0):
            return Place("tool_use", event.call), arguments
    return None


def new_call_id() -> str:
    """The id of a call: nobody can guess it, and no other call has it."""
    return f"toolu_{secrets.token_hex(12)}"
