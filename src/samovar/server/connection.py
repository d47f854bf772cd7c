"""A connection: uvicorn's, with deadlines and limits of our own.

    head ──> body (see `bodies`) ──> response ──> the next head

A client that sends its head drop by drop, one that takes nothing of what it asked for, one that
never ends its body and one too many are let go, each after its time.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import MutableMapping
from typing import Any, cast

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from samovar.config import ServerConfig
from samovar.server.body_writer import offer

logger = logging.getLogger(__name__)

_MOST_HEAD = 2**16  # bytes; browsers' cookies of many sites on localhost take a few thousand
_MOST_PIPELINED = 16  # requests that wait for the one before them; no client of today does it
_LINGER_SECONDS = 5.0  # for a body that nobody wants: who sends it reads the answer after it
_UPGRADE = re.compile(rb"(?<=\r\n)upgrade:", re.IGNORECASE)
_REFUSAL = (
    b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%s"
)


class Outbox:
    """What one server writes past all layers, until all that came of a step is encoded.

    Sending and encoding sweep each other's instructions and data out of the caches: many of the one
    and then many of the other take less time than both in turn.
    """

    def __init__(self) -> None:
        self._waiting: list[_Body] = []

    def put(self, body: _Body) -> None:
        """Have it flushed, soon."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(body)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for body in waiting:
            body.flush()


class _Body:
    """A BodyWriter. What a message goes through on its way here does not look at it."""

    def __init__(self, cycle: RequestResponseCycle, outbox: Outbox) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._outbox = outbox
        self._unsent = b""

    @property
    def is_taken(self) -> bool:
        cycle = self._cycle
        is_open = cycle.response_started and not (cycle.response_complete or cycle.disconnected)
        return is_open and cycle.chunked_encoding is True and not self._flow.write_paused

    def write(self, data: bytes) -> bool:
        if data:  # a chunk of no bytes would be the end
            if not self._unsent:
                self._outbox.put(self)
            self._unsent += b"%x\r\n%b\r\n" % (len(data), data)
        return not self._flow.write_paused

    def flush(self) -> None:
        data, self._unsent = self._unsent, b""
        transport = self._cycle.transport
        if data and not transport.is_closing():  # else it may raise, and others wait behind it
            transport.write(data)


class Connection(HttpToolsProtocol):
    """One client's connection. `limits` and `outbox` are the server's."""

    def __init__(
        self,
        *,
        limits: ServerConfig,
        outbox: Outbox,
        **usual: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**usual)
        self._limits = limits
        self._outbox = outbox
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._head_bytes = 0
        self._serving: RequestResponseCycle | None = None

    # ---- the head -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(b"503 Service Unavailable", b"too many connections; try again later")
        else:
            self._start("head", self._limits.head_seconds)

    def data_received(self, data: bytes) -> None:
        """Something came."""
        if self.transport.is_closing():
            return
        super().data_received(self._without_upgrade(data))
        if "head" in self._timers:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD:
                text = b"the head of the request is too large"
                self._refuse(b"431 Request Header Fields Too Large", text)
        elif self._is_between():  # empty lines: they are no request, and end uvicorn's own timer
            self._start("head", self._limits.head_seconds)

    def _without_upgrade(self, data: bytes) -> bytes:
        """The same without a wish to speak HTTP/2, as Java's client has by itself.

        Nothing but HTTP/1.1 is spoken here; the parser would take the body for what follows.
        """
        if (self.cycle is not None and self.cycle.more_body) or not _UPGRADE.search(data):
            return data
        head, end, rest = data.partition(b"\r\n\r\n")
        return _UPGRADE.sub(b"x-upgrade:", head) + end + rest

    def _is_between(self) -> bool:
        """Whether nothing is asked, and nobody counts for how long."""
        cycle = self.cycle
        is_idle = cycle is None or (cycle.response_complete and not cycle.more_body)
        return is_idle and not self.pipeline and self.timeout_keep_alive_task is None

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._head_bytes = 0
        if "head" not in self._timers:
            self._start("head", self._limits.head_seconds)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._stop("head")
        super().on_headers_complete()
        if len(self.pipeline) > _MOST_PIPELINED:
            self.transport.abort()

    # ---- the response -------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        self._serving = cycle
        offer(cast(MutableMapping[str, Any], cycle.scope), _Body(cycle, self._outbox))
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    def pause_writing(self) -> None:
        """More waits for the client than it takes."""
        super().pause_writing()
        self._start("write", self._limits.write_seconds)

    def resume_writing(self) -> None:
        """It took some."""
        self._stop("write")
        super().resume_writing()

    def on_message_complete(self) -> None:
        """The body is there."""
        self._stop("linger")
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """All of a response was written."""
        cycle = self.cycle
        super().on_response_complete()
        if cycle.response_complete and cycle.more_body and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._start("linger", _LINGER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, from whichever of its requests is being served."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        cycle = self._serving
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    # ---- deadlines ----------------------------------------------------------------------------

    def _start(self, name: str, seconds: float) -> None:
        self._timers[name] = self.loop.call_later(seconds, self._expire, name)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _expire(self, name: str) -> None:
        self._timers.pop(name, None)
        if self.transport.is_closing() and name != "write":
            return
        logger.info("a connection is ended: its %s took too long", name)
        if name == "head" and self._head_bytes:
            self._refuse(b"408 Request Timeout", b"the head of the request came too slowly")
        else:
            self.transport.abort()  # closing would wait for the client to take what is there

    def _refuse(self, status: bytes, text: bytes) -> None:
        body = b'{"error":{"message":"%s","type":"invalid_request_error","code":null}}' % text
        self.transport.write(_REFUSAL % (status, len(body), body))
        self.transport.close()
