"""What a server needs of a dialect, whichever it is.

JSON ──decode──> GenerateRequest            Event ──Encoder.feed──> bytes of a stream
Failed ──Dialect.failure──> WireFailure     Event ──Collector.feed──> body of one answer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from samovar.types import Event, Failed

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
JSON = "application/json"


class Encoder(Protocol):
    """Events of a request, or of several, as the bytes of one stream.

    A Failed is an event of the stream like any other: the status has gone out already.
    """

    media_type: str

    def feed(self, event: Event) -> bytes:
        """What goes out for an event; nothing (b"") for some, such as Begun.

        The last one ends the stream.
        """

    def ping(self) -> bytes:
        """What keeps a connection alive while nothing comes; b"" where the dialect has nothing."""


class Collector(Protocol):
    """The same events as one body."""

    def feed(self, event: Event) -> None:
        """Take one more event; never a Failed."""

    def body(self) -> bytes:
        """The body, after the terminal event."""


@dataclass(frozen=True, slots=True)
class WireFailure:
    """A failure in the shape of a dialect."""

    status: int
    body: bytes
    media_type: str = JSON


class Failures(Protocol):
    """How a dialect says what went wrong before anything went out."""

    def __call__(self, failed: Failed) -> WireFailure:
        """The failure; the server adds the headers that go with it (Retry-After, request id)."""
