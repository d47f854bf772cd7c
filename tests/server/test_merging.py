"""Several streams as one: nothing is lost, few run at once, and all end with the first failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.errors import WorkerLost
from samovar.server.merging import merged
from samovar.types import Burst, Event, Failed, TextDelta
from tests.conftest import scaled


class Streams:
    """Streams that count how many of them run."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0

    async def of(self, name: str, size: int, end: Event | None = None) -> AsyncIterator[Burst]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for number in range(size):
                await asyncio.sleep(0)
                yield [TextDelta(name, str(number), ())]
            if end is not None:
                yield [end]
        finally:
            self.running -= 1


@given(st.lists(st.integers(0, 400), max_size=8), st.integers(1, 4))
@settings(max_examples=scaled(30, 500), deadline=None)
def test_every_event_comes_in_the_order_of_its_stream(sizes: list[int], at_once: int) -> None:
    async def take() -> list[Event]:
        every = [streams.of(f"s{i}", size) for i, size in enumerate(sizes)]
        return [event async for burst in merged(every, at_once) for event in burst]

    streams = Streams()
    found = asyncio.run(take())
    for index, size in enumerate(sizes):
        own = [
            one.text
            for one in found
            if isinstance(one, TextDelta) and one.request_id == f"s{index}"
        ]
        assert own == [str(number) for number in range(size)]
    assert len(found) == sum(sizes)
    assert streams.most == min(at_once, len(sizes))
    assert streams.running == 0


def test_a_failure_is_the_last_event_and_ends_the_others() -> None:
    async def take() -> list[Event]:
        every = [streams.of("long", 10**6), streams.of("bad", 3, failed)]
        return [event async for burst in merged(every) for event in burst]

    failed = Failed("bad", "worker_lost", "it died")
    streams = Streams()
    assert asyncio.run(take())[-1] == failed
    assert streams.running == 0


def test_what_a_stream_raises_is_raised() -> None:
    async def broken() -> AsyncIterator[Burst]:
        yield [TextDelta("r", "x", ())]
        raise WorkerLost("it died")

    async def take() -> None:
        async for _ in merged([streams.of("long", 10**6), broken()]):
            pass

    streams = Streams()
    with pytest.raises(WorkerLost):
        asyncio.run(take())
    assert streams.running == 0


def test_who_leaves_ends_all_though_nobody_takes_what_they_say() -> None:
    async def leave() -> None:
        events = merged(streams.of(f"s{i}", 10**6) for i in range(4))
        assert await anext(events)
        await asyncio.sleep(0.01)
        await events.aclose()  # type: ignore[attr-defined]

    streams = Streams()
    asyncio.run(leave())
    assert streams.running == 0
