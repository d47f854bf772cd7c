"""From events to a response: streamed or in one piece, cancelled when the client goes.

    events ──> Encoder ──> a message for each, as it comes

One task takes events, encodes and writes; what waits for a client meanwhile, waits with the request
(see Served.generate), and the loop puts what is written at once into one packet. It is not the task
that serves the request: to wake that one means to go through all the layers it is in, for each
token. Another one waits for the client to go, and cancels the first, and with it the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from samovar.api.wire import SSE, Collector, Encoder, Failures, WireFailure
from samovar.errors import SamovarError
from samovar.server.current import current
from samovar.types import Event, Failed

logger = logging.getLogger(__name__)

HOLD_SECONDS = 5.0
"""So long an answer's status is held back: what goes wrong meanwhile is a status, not an event."""
PING_SECONDS = 15.0
"""Between two signs of life while a long prompt is computed: proxies and clients give up sooner."""

_LAST_SECONDS = 1.0  # for the last event of a stream that is cut off: its client may take nothing

Result = TypeVar("Result")


class ClientGone(Exception):
    """Nobody is left to answer."""


async def streamed(events: AsyncIterator[Event], encoder: Encoder, failures: Failures) -> Response:
    """Stream events. A failure that comes first, and soon, has a status of its own."""
    return EventStream(events, encoder, failures)


async def collected(
    request: Request, events: AsyncIterator[Event], collector: Collector, failures: Failures
) -> Response:
    """One body of all events; the request is cancelled when the client goes."""

    async def collect() -> Response:
        async with contextlib.aclosing(events) as stream:  # type: ignore[type-var]
            async for event in stream:
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


def internal_failure() -> Failed:
    """What a client is told of a bug: where in the log it is, and nothing of it."""
    request = current()
    which = f" of request {request.request_id}" if request is not None else ""
    return Failed("", "internal_error", f"an internal error; the log{which} says more")


class EventStream(StreamingResponse):
    """A response of events. It has no status before the first of them, or HOLD_SECONDS."""

    def __init__(self, events: AsyncIterator[Event], encoder: Encoder, failures: Failures) -> None:
        headers = {"Cache-Control": "no-store"}
        if encoder.media_type == SSE:
            headers["X-Accel-Buffering"] = "no"
        super().__init__(_never(), headers=headers, media_type=encoder.media_type)
        self._events = events
        self._encoder = encoder
        self._failures = failures
        self._has_begun = False
        self._is_silent = True
        """Nothing was written since the timer was last there."""
        self._timer: asyncio.TimerHandle | None = None
        self._sign: asyncio.Task[None] | None = None
        """Writes a sign of life, which nothing must overtake."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises ClientGone."""
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
        async with contextlib.aclosing(_told(self._events)) as events:
            async for event in events:
                if self._sign is not None:
                    await self._sign
                if not self._has_begun:
                    if isinstance(event, Failed):
                        response = respond_failure(self._failures(event), event)
                        await response(scope, receive, send)
                        return
                    await self._begin(send)
                data, is_last = self._encoded(event)
                self._is_silent = False
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                if is_last:
                    break
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send) -> None:
        self._has_begun = True
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    def _encoded(self, event: Event) -> tuple[bytes, bool]:
        """The bytes of an event, and whether nothing can follow them."""
        try:
            return self._encoder.feed(event), False
        except Exception:
            logger.exception("an event could not be encoded")
            return self._encoder.feed(internal_failure()), True

    # ---- signs of life ------------------------------------------------------------------------

    def _start_timer(self, seconds: float, send: Send) -> None:
        """One timer for a whole stream: one for every event would cost more than the event."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look, send)

    def _look(self, send: Send) -> None:
        if self._is_silent and (self._sign is None or self._sign.done()):
            self._sign = asyncio.ensure_future(self._ping(send))
        self._is_silent = True
        self._start_timer(PING_SECONDS / 2, send)

    async def _ping(self, send: Send) -> None:
        if not self._has_begun:
            await self._begin(send)
        data = self._encoder.ping()
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": True})

    # ---- the end ------------------------------------------------------------------------------

    async def _cut_off(self, send: Send) -> None:
        """The server ends, and this did not in the time that there was."""
        text = "the server is shutting down; try again"
        body = self._encoder.feed(Failed("", "unavailable", text, retryable=True))
        with contextlib.suppress(TimeoutError):
            message = {"type": "http.response.body", "body": body, "more_body": False}
            await asyncio.wait_for(send(message), _LAST_SECONDS)


async def _told(events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
    """The same events; what is raised instead of one is told as the last."""
    try:
        async with contextlib.aclosing(events) as stream:  # type: ignore[type-var]
            async for event in stream:
                yield event
    except SamovarError as error:
        yield failed_of(error)
    except Exception:
        logger.exception("a request failed")
        yield internal_failure()


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
