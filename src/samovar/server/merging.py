"""Several requests behind one answer: their events as they come, at most some running at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing

from samovar.types import Burst, Failed

AT_ONCE = 8
"""Requests of one answer: others want a place in the batch as well."""

_Bursts = asyncio.Queue[Burst | Exception | None]

_BUFFERED = 256  # bursts that wait to be taken: as many as some steps bring


def merged(streams: Iterable[AsyncIterator[Burst]], at_once: int = AT_ONCE) -> AsyncIterator[Burst]:
    """The events of all. The first failure is the last event; what still runs is cancelled.

    Raises what a stream raises.
    """
    waiting = deque(streams)
    # Nearly always there is one: nothing has to be merged, and a queue would cost.
    return waiting.popleft() if len(waiting) == 1 else _merged(waiting, at_once)


async def _merged(waiting: deque[AsyncIterator[Burst]], at_once: int) -> AsyncIterator[Burst]:
    bursts: _Bursts = asyncio.Queue(_BUFFERED)
    running = min(at_once, len(waiting))
    tasks = [asyncio.ensure_future(_fetch(waiting, bursts)) for _ in range(running)]
    try:
        while running:
            found = await bursts.get()
            if found is None:
                running -= 1
                continue
            if isinstance(found, Exception):
                raise found
            yield found
            if isinstance(found[-1], Failed):
                return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _fetch(waiting: deque[AsyncIterator[Burst]], bursts: _Bursts) -> None:
    """Go through streams until none waits; then None follows, or the error that was raised."""
    try:
        while waiting:
            async with aclosing(waiting.popleft()) as stream:  # type: ignore[type-var]
                async for burst in stream:
                    await bursts.put(burst)
    except Exception as error:  # noqa: BLE001 - whoever takes the events is to raise it
        await bursts.put(error)
    else:
        await bursts.put(None)
