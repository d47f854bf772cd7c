"""From events to a response: streamed or in one piece, cancelled when the client goes.

    events ──pump──> at most MAX_BUFFERED of them ──> Encoder ──> one write for all that is there

A task of its own fetches events; whoever writes takes all that have come at once. So there is one
write per step and stream, and a client that goes is noticed whatever is being waited for: the
pump is cancelled, and with it the request. Who writes is a task as well, because to wake the one
that serves the request means to go through all the layers it is in, for each token.
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
from samovar.server.current import current
from samovar.types import Event, Failed

logger = logging.getLogger(__name__)

HOLD_SECONDS = 5.0
"""So long an answer's status is held back: what goes wrong meanwhile is a status, not an event."""
PING_SECONDS = 15.0
"""Between two signs of life while a long prompt is computed: proxies and clients give up sooner."""
MAX_BUFFERED = 8192
"""Events that wait for a client which takes none: some megabytes. Then its request is cancelled."""

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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises ClientGone."""
        feed = _Feed(self._events)
        gone = asyncio.ensure_future(_disconnected(receive))
        gone.add_done_callback(feed.leave)
        writer = asyncio.ensure_future(self._answer(feed, scope, receive, send))
        try:
            await writer
            if feed.is_left:
                raise ClientGone
        except asyncio.CancelledError:
            if self._has_begun and not feed.is_left:
                await self._cut_off(send)
            raise
        finally:
            await _end(writer, feed.task, gone)

    async def _answer(self, feed: _Feed, scope: Scope, receive: Receive, send: Send) -> None:
        batch = await feed.first(HOLD_SECONDS)
        if batch and isinstance(batch[0], Failed):
            response = respond_failure(self._failures(batch[0]), batch[0])
            await response(scope, receive, send)
            return
        if feed.is_left:
            return
        self._has_begun = True
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        is_last = False
        while not is_last and not feed.is_left:
            data, is_last = self._encoded(batch, is_last=feed.is_over)
            if data or is_last:
                await send({"type": "http.response.body", "body": data, "more_body": not is_last})
            if not is_last:
                batch = await feed.take()

    def _encoded(self, batch: list[Event], *, is_last: bool) -> tuple[bytes, bool]:
        """The bytes of what has come, and whether they are the last."""
        if not batch:
            return b"" if is_last else self._encoder.ping(), is_last
        try:
            return b"".join(map(self._encoder.feed, batch)), is_last
        except Exception:
            logger.exception("an event could not be encoded")
            return self._encoder.feed(internal_failure()), True

    async def _cut_off(self, send: Send) -> None:
        """The server ends, and this did not in the time that there was."""
        text = "the server is shutting down; try again"
        body = self._encoder.feed(Failed("", "unavailable", text, retryable=True))
        with contextlib.suppress(TimeoutError):
            message = {"type": "http.response.body", "body": body, "more_body": False}
            await asyncio.wait_for(send(message), _LAST_SECONDS)


class _Feed:
    """Events as they come, for one who takes all that there are at once."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None
        self._has_ended = False
        self._ticks = 0
        """Since something was taken."""
        self._timer: asyncio.TimerHandle | None = None
        self.is_left = False
        """Nobody is there to take anything."""
        self.task = self._loop.create_task(self._pump(events))

    @property
    def is_over(self) -> bool:
        """Whether all there was has been taken."""
        return self._has_ended and not self._waiting

    async def first(self, seconds: float) -> list[Event]:
        """What comes first; nothing if that takes longer."""
        timer = self._loop.call_later(seconds, self._wake)
        try:
            return await self.take()
        finally:
            timer.cancel()
            self._tick()

    async def take(self) -> list[Event]:
        """What comes next; nothing at the end, and when nothing came for PING_SECONDS."""
        if not self._waiting and not self._has_ended and not self.is_left:
            self._waiter = self._loop.create_future()
            await self._waiter
        taken, self._waiting = self._waiting, []
        self._ticks = 0
        return taken

    def leave(self, gone: asyncio.Future[Any] | None = None) -> None:
        """Nobody takes anything any more: end the request."""
        if gone is None or not gone.cancelled():
            self.is_left = True
            self.task.cancel()
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _tick(self) -> None:
        """One timer for a whole stream: one for every event would cost more than the event."""
        if self._ticks:
            self._wake()
        self._ticks += 1
        if not self._has_ended:
            self._timer = self._loop.call_later(PING_SECONDS / 2, self._tick)

    async def _pump(self, events: AsyncIterator[Event]) -> None:
        try:
            async for event in events:
                self._waiting.append(event)
                if len(self._waiting) > MAX_BUFFERED:
                    logger.warning("a client takes nothing of its answer; its request is cancelled")
                    self.is_left = True
                    break
                self._wake()
        except SamovarError as error:
            self._waiting.append(failed_of(error))
        except Exception:
            logger.exception("a request failed")
            self._waiting.append(internal_failure())
        finally:
            self._has_ended = True
            if self._timer is not None:
                self._timer.cancel()
            self._wake()
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()


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
