"""What chat completions look like, in a stream and in one piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from samovar.api.openai.logprobs import ChatLogprobs, Pieces
from samovar.api.openai.usage import Details, WireTimings, WireUsage
from samovar.types import FinishReason
from samovar.version import __version__

FINGERPRINT = f"samovar-{__version__}"

WireReason = Literal["stop", "length", "tool_calls", "function_call"]


@dataclass(frozen=True, slots=True)
class Head:
    """What every chunk of an answer begins with."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str
    """As the client calls it."""


@dataclass(frozen=True, slots=True)
class ChatForm:
    """What was asked of the form of an answer."""

    includes_usage: bool = False
    """A stream has a last chunk with what it took."""
    wants_functions: bool = False
    """A call is told as it was before there were tools."""
    pieces: Pieces | None = None
    """The bytes of tokens; None: log-probabilities were not asked for."""


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A call, or more of its arguments."""

    name: str | UnsetType = UNSET
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call, or more of one, which `index` tells then."""

    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: Function


class Delta(msgspec.Struct, frozen=True):
    """What is new of a message."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    """The same; clients read the one or the other."""
    tool_calls: tuple[ToolCall, ...] | UnsetType = UNSET
    function_call: Function | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True):
    """What is new of a choice."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: WireReason | None = None
    stop_reason: str | UnsetType = UNSET
    """The stop string that ended it."""


class Chunk(msgspec.Struct, frozen=True):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChunkChoice, ...]
    usage: WireUsage | UnsetType = UNSET
    timings: WireTimings | UnsetType = UNSET
    samovar: Details | UnsetType = UNSET


class AnswerMessage(msgspec.Struct, frozen=True):
    """A whole message."""

    role: str
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: tuple[ToolCall, ...] | UnsetType = UNSET
    function_call: Function | UnsetType = UNSET


class AnswerChoice(msgspec.Struct, frozen=True):
    """A whole choice."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: WireReason
    stop_reason: str | UnsetType = UNSET


class Answer(msgspec.Struct, frozen=True):
    """The whole body."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[AnswerChoice, ...]
    usage: WireUsage
    timings: WireTimings | UnsetType = UNSET
    samovar: Details | UnsetType = UNSET


def wire_reason(reason: FinishReason, *, wants_functions: bool = False) -> WireReason:
    """Why a choice ended. There is no word for one that was cancelled: nobody hears it."""
    if reason == "tool_calls":
        return "function_call" if wants_functions else "tool_calls"
    return "length" if reason == "length" else "stop"


def stop_reason(stop: str | int | None) -> str | UnsetType:
    """The stop string; nothing where a token ended the choice."""
    return stop if isinstance(stop, str) else UNSET


def call_id(answer_id: str, choice: int, call: int) -> str:
    """An id that no other call has: it is made of the answer's."""
    return f"call_{answer_id[-20:]}_{choice}_{call}"
