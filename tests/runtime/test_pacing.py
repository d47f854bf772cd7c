"""When whoever fetches hears of what came: first and last at once, between them not too often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from samovar.runtime import pacing
from samovar.runtime.pacing import Pacing
from samovar.runtime.ticket import Ticket
from samovar.types import Begun, Burst, Choice, Event, Finished, TextDelta, Usage
from tests.runtime.serving import request

MANY = 10**9  # streams: a pause of MOST_SECONDS
END = Finished("r1", (Choice("stop", 0),), Usage(1, 1))


def _text(event: Event) -> str:
    return event.text if isinstance(event, TextDelta) else ""


class Listener:
    """Fetches from one ticket, and remembers what came together."""

    def __init__(self, *, is_paced: bool = True) -> None:
        self.ticket = Ticket(request(1), 0.0, lambda _: None, is_paced=is_paced)
        self.heard: list[Burst] = []
        self.task = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        while not self.ticket.is_done:
            self.heard.append(await self.ticket.fetch())

    @property
    def texts(self) -> list[str]:
        return [
            "".join(one.text for one in burst if isinstance(one, TextDelta)) for burst in self.heard
        ]

    async def say(self, pacing: Pacing, *texts: str, streams: int = MANY) -> None:
        """Deltas, one after the other; whoever was told has fetched by the end of each."""
        for text in texts:
            self.ticket.take(TextDelta("r1", text, (65,)))
            pacing.tell(self.ticket, streams)
            for _ in range(3):
                await asyncio.sleep(0)

    async def begin(self, pacing: Pacing) -> None:
        self.ticket.take(Begun("r1", 7))
        pacing.tell(self.ticket, MANY)
        for _ in range(3):
            await asyncio.sleep(0)

    async def end(self, pacing: Pacing) -> None:
        self.ticket.take(END)
        pacing.tell(self.ticket, MANY)
        await self.task


def on_a_loop(check: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        asyncio.run(asyncio.wait_for(check(), 60))

    test.__name__ = check.__name__
    return test


@on_a_loop
async def test_the_first_and_the_last_event_never_wait() -> None:
    paced = Pacing()
    one = Listener()
    await asyncio.sleep(0)
    await one.say(paced, "a")
    assert one.texts == ["a"]
    await one.end(paced)
    assert one.heard[-1] == [END]


def test_the_first_token_does_not_wait_behind_the_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pacing, "MOST_SECONDS", 3600.0)

    async def check() -> None:
        paced = Pacing()
        one = Listener()
        await asyncio.sleep(0)
        await one.begin(paced)
        assert one.heard == [[Begun("r1", 7)]]
        await one.say(paced, "a", "b", "c")
        assert one.texts == ["", "a"]
        await one.begin(paced)  # another worker says it again
        await one.end(paced)
        assert one.texts == ["", "a", "bc"]
        assert [type(event) for burst in one.heard for event in burst].count(Begun) == 1

    asyncio.run(asyncio.wait_for(check(), 60))


@on_a_loop
async def test_what_is_held_comes_together_when_its_time_is_over() -> None:
    paced, loop = Pacing(), asyncio.get_running_loop()
    one = Listener()
    await asyncio.sleep(0)
    await one.say(paced, "a")
    before = loop.time()
    await one.say(paced, "b", "c", "d")
    if loop.time() - before < pacing.MOST_SECONDS:
        assert one.texts == ["a"]
    await asyncio.sleep(2 * pacing.MOST_SECONDS)
    assert "".join(one.texts) == "abcd"
    await one.end(paced)


@on_a_loop
async def test_the_end_takes_along_what_is_held() -> None:
    paced = Pacing()
    one = Listener()
    await asyncio.sleep(0)
    await one.say(paced, "a", "b", "c")
    await one.end(paced)
    assert "".join(one.texts) == "abc"
    assert one.heard[-1][-1] == END
    await asyncio.sleep(2 * pacing.MOST_SECONDS)  # the timer finds nobody who waits


@on_a_loop
async def test_a_few_streams_hear_of_everything_at_once() -> None:
    paced = Pacing()
    one, other = Listener(), Listener(is_paced=False)
    await asyncio.sleep(0)
    for text in "abc":
        await one.say(paced, text, streams=1)
        await asyncio.sleep(2 / pacing.PACKETS)
    await other.say(paced, *"abc")
    assert one.texts == other.texts == ["a", "b", "c"]
    await one.end(paced)
    await other.end(paced)


def test_many_listeners_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "MOST_SECONDS", 3600.0)

    async def check() -> None:
        paced = Pacing()
        every = [Listener() for _ in range(50)]
        await asyncio.sleep(0)
        for text in "abcdefgh":
            for one in every:
                await one.say(paced, text)
        for one in every:
            await one.end(paced)
            assert one.texts == ["a", "bcdefgh"]

    asyncio.run(check())
