"""Everything that a runtime and a worker say to each other. Frozen; MessagePack on the wire.

    runtime                                   worker
            <──────────────────────────── Hello
      Load  ──────────────────────────────────>
            <────────────── Progress*, Ready | BootFailed
      Submit, Cancel, Call, Ping, Stop ───────>
            <──────── Output, Vectors, Answer, Pong, Stopped

Both ends are of one installation; Hello says of which, and another one is refused.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec

from samovar.config import CacheConfig, WorkerConfig
from samovar.types import (
    Begun,
    Failed,
    Finished,
    PromptScores,
    Ranked,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    Verified,
)

PROTOCOL = 1


class ExitCode(IntEnum):
    """How a worker ends of its own accord. Anything else was done to it."""

    OK = 0
    BOOT_FAILED = 10
    """It could not load its model, and has said why."""
    LOST_PARENT = 11
    """Nobody was left to serve."""
    PROTOCOL = 12
    """What it was told made no sense: another version."""
    BUG = 13
    """Something of ours raised what it should not; its standard error says what."""


# ---- from the runtime ----------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, tag=True):
    """The first message: what to load."""

    path: str
    worker: WorkerConfig
    cache: CacheConfig | None = None


class Submit(msgspec.Struct, frozen=True, tag=True):
    """A request, see `requests`."""

    kind: str
    values: dict[str, Any]


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """End a request."""

    request_id: str


class Call(msgspec.Struct, frozen=True, tag=True):
    """A question that is answered once; `arguments` as the operation wants them."""

    call_id: int
    operation: str
    arguments: dict[str, Any] = {}


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Asks for a Pong."""

    number: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Take nothing more in, finish what runs within a time, save, and leave."""

    seconds: float


Command = Load | Submit | Cancel | Call | Ping | Stop


# ---- from the worker -----------------------------------------------------------------------------

WireEvent = (
    Begun
    | TextDelta
    | ReasoningDelta
    | ToolCallDelta
    | PromptScores
    | Finished
    | Verified
    | Ranked
    | Failed
)
"""Every event but Embedded, whose vectors go another way."""


class Hello(msgspec.Struct, frozen=True, tag=True):
    """A worker is there."""

    protocol: int
    version: str
    pid: int


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How much of the model is loaded, 0 to 1."""

    fraction: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded."""

    description: str
    context_length: int
    num_sequences: int
    layout: str
    state_kind: str
    has_template: bool
    load_seconds: float
    mapped_bytes: int = 0
    """Weights that are needed in the page cache, which the kernel counts as free."""


class BootFailed(msgspec.Struct, frozen=True, tag=True):
    """It cannot be loaded; the worker leaves. Trying again would fail again."""

    code: str
    message: str


class Output(msgspec.Struct, frozen=True, tag=True):
    """What came of a step, of all sequences."""

    events: tuple[WireEvent, ...]


class Vectors(msgspec.Struct, frozen=True, tag=True):
    """The end of an EmbedRequest. The frame brings one descriptor: rows x width float32."""

    request_id: str
    rows: int
    width: int
    usage: Usage


class Answer(msgspec.Struct, frozen=True, tag=True):
    """What came of a Call: a value, or the code and message of an error."""

    call_id: int
    value: Any = None
    code: str | None = None
    message: str = ""


class Pong(msgspec.Struct, frozen=True, tag=True):
    """The worker is there; `step_seconds` is how long the present step has been running."""

    number: int
    step_seconds: float
    running: int
    waiting: int


class Stopped(msgspec.Struct, frozen=True, tag=True):
    """Everything is saved; nothing follows."""

    is_saved: bool


Report = Hello | Progress | Ready | BootFailed | Output | Vectors | Answer | Pong | Stopped


def _encode(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _decode(kind: type, value: object) -> object:
    if kind is Path:
        return Path(str(value))
    raise NotImplementedError(kind.__name__)


ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode)
COMMANDS: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command, dec_hook=_decode)
REPORTS: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report, dec_hook=_decode)
