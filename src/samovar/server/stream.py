"""From events to a response: streamed or in one piece, cancelled when the client goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from samovar.api.wire import Collector, Encoder, Failures, WireFailure
from samovar.errors import SamovarError
from samovar.types import Event, Failed

HOLD_SECONDS = 5.0
"""So long an answer's status is held back: what goes wrong meanwhile is a status, not an event."""
PING_SECONDS = 15.0
"""Between two signs of life while a long prompt is computed: proxies and clients give up sooner."""

Result = TypeVar("Result")


async def streamed(events: AsyncIterator[Event], encoder: Encoder, failures: Failures) -> Response:
    """Stream events. A failure that comes first, and soon, has a status of its own."""
    iterator = aiter(events)
    first = asyncio.ensure_future(_next(iterator))
    try:
        await asyncio.wait({first}, timeout=HOLD_SECONDS)
    except BaseException:
        first.cancel()
        raise
    if first.done():
        try:
            event = first.result()
        except SamovarError as error:
            return respond_failure(failures(failed_of(error)))
        if isinstance(event, Failed):
            return respond_failure(failures(event), event)
    return StreamingResponse(_bytes(first, iterator, encoder), media_type=encoder.media_type)


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
        return respond_failure(failures(failed_of(error)))


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled when the client goes. Raises CancelledError then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
        return await task
    finally:
        task.cancel()
        gone.cancel()


def failed_of(error: SamovarError, request_id: str = "") -> Failed:
    """The event that an exception stands for."""
    return Failed(request_id, error.code, str(error), error.retryable)


def respond_failure(failure: WireFailure, failed: Failed | None = None) -> Response:
    """A failure as a response."""
    headers = {}
    if failed is not None and failed.retryable:
        headers["Retry-After"] = str(max(1, round(failed.retry_after_seconds or 1)))
    return Response(failure.body, failure.status, headers, failure.media_type)


async def _bytes(
    first: asyncio.Future[Event], events: AsyncIterator[Event], encoder: Encoder
) -> AsyncIterator[bytes]:
    pending = first
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=PING_SECONDS)
            if not done:
                ping = encoder.ping()
                if ping:
                    yield ping
                continue
            try:
                event = pending.result()
            except StopAsyncIteration:
                return
            except SamovarError as error:
                yield encoder.feed(failed_of(error))
                return
            data = encoder.feed(event)
            pending = asyncio.ensure_future(_next(events))
            if data:
                yield data
    finally:
        pending.cancel()
        with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, SamovarError):
            await pending
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


async def _next(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def _disconnected(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
