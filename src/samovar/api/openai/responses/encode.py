"""A turn as bytes: a stream of server-sent events, or one body."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from samovar.api.openai.responses.output import Json
from samovar.api.openai.responses.turn import Turn
from samovar.api.wire import SSE
from samovar.types import Event

PING = b": ping\n\n"

_encode = msgspec.json.Encoder().encode


def frames(events: Iterable[Json]) -> bytes:
    """Typed events as server-sent ones."""
    parts = (b"event: %b\ndata: %b\n\n" % (one["type"].encode(), _encode(one)) for one in events)
    return b"".join(parts)


def body_of(value: Json) -> bytes:
    """An object as a body."""
    return _encode(value)


def _nothing(_turn: Turn) -> None:
    pass


class ResponseEncoder:
    """The stream of one response, or of what comes behind the event of number `after`.

    `on_end` is called before the last bytes are handed out.
    """

    media_type = SSE

    def __init__(
        self, turn: Turn, on_end: Callable[[Turn], None] = _nothing, *, after: int = -1
    ) -> None:
        self._turn = turn
        self._on_end = on_end
        self._after = after

    def feed(self, event: Event) -> bytes:
        """What goes out for an event."""
        return self._behind(_fed(self._turn, event, self._on_end))

    def ping(self) -> bytes:
        """The opening, as long as nothing else came; then a comment."""
        return self._behind(self._turn.begin()) or PING

    def _behind(self, said: list[Json]) -> bytes:
        return frames(one for one in said if one["sequence_number"] > self._after)


class ResponseCollector:
    """One response as one body. `on_end` is called when it has ended."""

    def __init__(self, turn: Turn, on_end: Callable[[Turn], None] = _nothing) -> None:
        self._turn = turn
        self._on_end = on_end

    def feed(self, event: Event) -> None:
        """Take one more event."""
        _fed(self._turn, event, self._on_end)

    def body(self) -> bytes:
        """The response."""
        return body_of(self._turn.response())


def _fed(turn: Turn, event: Event, on_end: Callable[[Turn], None]) -> list[Json]:
    was_over = turn.is_over
    said = turn.feed(event)
    if turn.is_over and not was_over:
        on_end(turn)
    return said
