"""From events to a response: streamed or in one piece, cancelled when the client goes.

    events ──> Encoder ──> a message for each, as it comes

One task answers; another one waits for the client to go, and cancels the first, and with it the
request. Once an answer has begun, events are pushed through the encoder to the connection where
they arrive (see Generation.push and BodyWriter), and neither task is woken for them. When a client
takes less than comes, the answering task takes over until it does: what comes meanwhile waits with
the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from samovar.api.wire import SSE, Collector, Encoder, Failures, WireFailure
from samovar.errors import SamovarError
from samovar.server.body_writer import BodyWriter, body_writer
from samovar.server.current import Current, current
from samovar.server.generation import Generation
from samovar.types import Begun, Burst, Failed

logger = logging.getLogger(__name__)

HOLD_SECONDS = 5.0
"""So long an answer's status is held back: what goes wrong meanwhile is a status, not an event."""
PING_SECONDS = 15.0
"""Between two signs of life while a long prompt is computed: proxies and clients give up sooner."""

_LAST_SECONDS = 1.0  # for the last event of a stream that is cut off: its client may take nothing

Result = TypeVar("Result")


class ClientGone(Exception):
    """Nobody is left to answer."""


async def streamed(bursts: AsyncIterator[Burst], encoder: Encoder, failures: Failures) -> Response:
    """Stream events. A failure that comes first, and soon, has a status of its own."""
    return EventStream(bursts, encoder, failures)


async def collected(
    request: Request, bursts: AsyncIterator[Burst], collector: Collector, failures: Failures
) -> Response:
    """One body of all events; the request is cancelled when the client goes."""

    async def collect() -> Response:
        async with contextlib.aclosing(bursts) as stream:  # type: ignore[type-var]
            async for burst in stream:
                for event in burst:
                    if isinstance(event, Failed):
                        return respond_failure(failures(event), event)
                    collector.feed(event)
        return Response(collector.body(), media_type="application/json")

    try:
        return await while_connected(request, collect())
    except SamovarError as error:
        failed = failed_of(error)
        return respond_failure(failures(failed), failed)


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled when the client goes. Raises ClientGone then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        await _end(task, gone)


def failed_of(error: SamovarError, request_id: str = "") -> Failed:
    """The event that an exception stands for."""
    return Failed(request_id, error.code, str(error), error.retryable)


def respond_failure(failure: WireFailure, failed: Failed | None = None) -> Response:
    """A failure as a response."""
    headers = {}
    if failed is not None and failed.retryable:
        headers["Retry-After"] = str(max(1, round(failed.retry_after_seconds or 1)))
    return Response(failure.body, failure.status, headers, failure.media_type)


def internal_failure(request: Current | None = None) -> Failed:
    """What a client is told of a bug: where in the log it is, and nothing of it."""
    request = request or current()
    which = f" of request {request.request_id}" if request is not None else ""
    return Failed("", "internal_error", f"an internal error; the log{which} says more")


class EventStream(StreamingResponse):
    """A response of events. It has no status before the first of them, or HOLD_SECONDS.

    That a request has begun is none of them: what fails then still has a status of its own.
    """

    def __init__(self, bursts: AsyncIterator[Burst], encoder: Encoder, failures: Failures) -> None:
        headers = {"Cache-Control": "no-store"}
        if encoder.media_type == SSE:
            headers["X-Accel-Buffering"] = "no"
        super().__init__(_never(), headers=headers, media_type=encoder.media_type)
        self._bursts = bursts
        self._encoder = encoder
        self._failures = failures
        self._request = current()
        self._writer: BodyWriter | None = None
        """Past all layers to the connection, where the server offers that."""
        self._is_pushed = False
        """Events go out as they arrive."""
        self._has_begun = False
        self._is_over = False
        """Nothing can follow what was written."""
        self._refusal: Response | None = None
        """What is answered instead of a stream."""
        self._is_silent = True
        """Nothing was written since the timer was last there."""
        self._timer: asyncio.TimerHandle | None = None
        self._sign: asyncio.Task[None] | None = None
        """Writes a sign of life, which nothing must overtake."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises ClientGone."""
        self._writer = body_writer(scope)
        gone = asyncio.ensure_future(_disconnected(receive))
        writer = asyncio.ensure_future(self._answer(scope, receive, send))
        gone.add_done_callback(lambda _: writer.cancel())
        self._start_timer(HOLD_SECONDS, send)
        try:
            await writer
        except asyncio.CancelledError:
            if gone.done():
                raise ClientGone from None
            if self._has_begun:
                await self._cut_off(send)
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            await _end(writer, gone, *([self._sign] if self._sign else []))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with contextlib.aclosing(self._bursts) as bursts:  # type: ignore[type-var]
                async for burst in bursts:
                    await self._write(burst, send)
                    if not self._is_over and isinstance(self._bursts, Generation):
                        await self._push(self._bursts)
                    if self._is_over:
                        break
        except SamovarError as error:
            await self._write([failed_of(error)], send)
        except Exception:
            logger.exception("a request failed")
            await self._write([internal_failure()], send)
        if self._refusal is not None:
            await self._refusal(scope, receive, send)
        else:
            await self._send(b"", send, is_last=True)

    async def _write(self, burst: Burst, send: Send) -> None:
        if self._sign is not None:
            await self._sign
        if not self._has_begun:
            first = next((one for one in burst if not isinstance(one, Begun)), None)
            if isinstance(first, Failed):
                self._refusal = respond_failure(self._failures(first), first)
                self._is_over = True
                return
            if first is not None:
                await self._begin(send)
        data = self._encoded(burst)
        if data:
            await self._send(data, send)

    async def _send(self, data: bytes, send: Send, *, is_last: bool = False) -> None:
        if self._writer is not None:
            self._writer.flush()
        await send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def _push(self, generation: Generation) -> None:
        """Have events go out as they arrive, for as long as the client takes them."""
        writer = self._writer
        if writer is None or not writer.is_taken:
            return

        def write(burst: Burst) -> bool:
            return writer.write(self._encoded(burst)) and not self._is_over

        self._is_pushed = True
        try:
            await generation.push(write)
        finally:
            self._is_pushed = False

    async def _begin(self, send: Send) -> None:
        self._has_begun = True
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    def _encoded(self, burst: Burst) -> bytes:
        data, feed = b"", self._encoder.feed
        try:
            for event in burst:
                data += feed(event)
        except Exception:
            logger.exception("an event could not be encoded")
            self._is_over = True
            return data + self._encoder.feed(internal_failure(self._request))
        self._is_silent = self._is_silent and not data
        return data

    # ---- signs of life ------------------------------------------------------------------------

    def _start_timer(self, seconds: float, send: Send) -> None:
        """One timer for a whole stream: one for every event would cost more than the event."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look, send)

    def _look(self, send: Send) -> None:
        if self._is_silent and self._is_pushed and self._writer is not None:
            self._writer.write(self._encoder.ping())
        elif self._is_silent and (self._sign is None or self._sign.done()):
            self._sign = asyncio.ensure_future(self._ping(send))
        self._is_silent = True
        self._start_timer(PING_SECONDS / 2, send)

    async def _ping(self, send: Send) -> None:
        if not self._has_begun:
            await self._begin(send)
        data = self._encoder.ping()
        if data:
            await self._send(data, send)

    # ---- the end ------------------------------------------------------------------------------

    async def _cut_off(self, send: Send) -> None:
        """The server ends, and this did not in the time that there was."""
        text = "the server is shutting down; try again"
        body = self._encoder.feed(Failed("", "unavailable", text, retryable=True))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._send(body, send, is_last=True), _LAST_SECONDS)


async def _never() -> AsyncIterator[bytes]:
    """In place of a body that an EventStream writes itself."""
    return
    yield b""


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
