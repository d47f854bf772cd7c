"""Several requests behind one answer: their events as they come, at most some running at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing

from samovar.types import Event, Failed

AT_ONCE = 8
"""Requests of one answer: others want a place in the batch as well."""

_Events = asyncio.Queue[Event | Exception | None]

_BUFFERED = 256  # events that wait to be taken: as many as some steps bring


async def merged(
    streams: Iterable[AsyncIterator[Event]], at_once: int = AT_ONCE
) -> AsyncIterator[Event]:
    """The events of all. The first failure is the last event; what still runs is cancelled.

    Raises what a stream raises.
    """
    waiting = deque(streams)
    if len(waiting) == 1:  # nearly always: nothing has to be merged, and a queue would cost
        async with aclosing(waiting.popleft()) as only:  # type: ignore[type-var]
            async for event in only:
                yield event
                if isinstance(event, Failed):
                    return
        return
    events: _Events = asyncio.Queue(_BUFFERED)
    running = min(at_once, len(waiting))
    tasks = [asyncio.ensure_future(_fetch(waiting, events)) for _ in range(running)]
    try:
        while running:
            found = await events.get()
            if found is None:
                running -= 1
                continue
            if isinstance(found, Exception):
                raise found
            yield found
            if isinstance(found, Failed):
                return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _fetch(waiting: deque[AsyncIterator[Event]], events: _Events) -> None:
    """Go through streams until none waits; then None follows, or the error that was raised."""
    try:
        while waiting:
            async with aclosing(waiting.popleft()) as stream:  # type: ignore[type-var]
                async for event in stream:
                    await events.put(event)
    except Exception as error:  # noqa: BLE001 - whoever takes the events is to raise it
        await events.put(error)
    else:
        await events.put(None)
