"""A sink in place of whoever fetches: it gets everything once, in order, and can leave off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.runtime.ticket import Ticket
from samovar.types import Burst, TextDelta
from tests.conftest import scaled
from tests.runtime.serving import request
from tests.runtime.test_pacing import END, on_a_loop


def a_ticket(closed: list[Ticket] | None = None) -> Ticket:
    return Ticket(request(1), 0.0, (closed if closed is not None else []).append)


def say(ticket: Ticket, *texts: str) -> None:
    """Deltas of one step."""
    for text in texts:
        ticket.take(TextDelta("r1", text, (65,)))
    ticket.wake()


def end(ticket: Ticket) -> None:
    ticket.take(END)
    ticket.wake()


def text_of(bursts: Iterable[Burst]) -> str:
    return "".join(one.text for burst in bursts for one in burst if isinstance(one, TextDelta))


class Sink:
    """Remembers, and leaves off after some bursts."""

    def __init__(self, most: int = 10**9) -> None:
        self.heard: list[Burst] = []
        self.most = most

    def __call__(self, burst: Burst) -> bool:
        self.heard.append(burst)
        self.most -= 1
        return self.most > 0


@on_a_loop
async def test_what_waits_comes_first_and_what_comes_then_at_once() -> None:
    ticket, sink = a_ticket(), Sink()
    say(ticket, "a", "b")
    pushing = asyncio.ensure_future(ticket.push(sink))
    await asyncio.sleep(0)
    assert text_of(sink.heard) == "ab"
    say(ticket, "c")
    assert text_of(sink.heard) == "abc"  # nothing was awaited in between
    end(ticket)
    assert sink.heard[-1] == [END]
    await pushing
    assert ticket.is_done


@on_a_loop
async def test_a_sink_that_leaves_off_is_given_no_more() -> None:
    ticket, sink = a_ticket(), Sink(most=1)
    pushing = asyncio.ensure_future(ticket.push(sink))
    await asyncio.sleep(0)
    say(ticket, "a")
    say(ticket, "b")
    await pushing
    say(ticket, "c")
    assert text_of(sink.heard) == "a"
    assert text_of([await ticket.fetch()]) == "bc"
    assert not ticket.is_done


@on_a_loop
async def test_what_a_sink_raises_is_raised_where_it_was_given() -> None:
    ticket = a_ticket()

    def sink(_: Burst) -> bool:
        raise ZeroDivisionError

    pushing = asyncio.ensure_future(ticket.push(sink))
    await asyncio.sleep(0)
    say(ticket, "a")
    with pytest.raises(ZeroDivisionError):
        await pushing
    say(ticket, "b")
    assert text_of([await ticket.fetch()]) == "b"


@on_a_loop
async def test_who_goes_takes_the_sink_along() -> None:
    ticket, sink = a_ticket(), Sink()
    pushing = asyncio.ensure_future(ticket.push(sink))
    await asyncio.sleep(0)
    say(ticket, "a")
    pushing.cancel()
    say(ticket, "b")  # before the task has heard that it is over
    with pytest.raises(asyncio.CancelledError):
        await pushing
    say(ticket, "c")
    assert text_of(sink.heard) == "a"
    assert text_of([await ticket.fetch()]) == "bc"


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.integers(1, 4)), max_size=40))
@settings(max_examples=scaled(100, 2000), deadline=None)
def test_taken_or_given_everything_comes_once(steps: list[tuple[int, bool, int]]) -> None:
    """However sinks leave off, and whatever comes between one and the next."""

    async def check() -> None:
        ticket, heard, said = a_ticket(), list[Burst](), list[str]()

        async def listen() -> None:
            turns = iter([(pushes, most) for _, pushes, most in steps])
            while not ticket.is_done:
                pushes, most = next(turns, (True, 10**9))
                if pushes:
                    sink = Sink(most)
                    await ticket.push(sink)
                    heard.extend(sink.heard)
                else:
                    heard.append(await ticket.fetch())

        listening = asyncio.ensure_future(listen())
        for number, (size, waits, _) in enumerate(steps):
            texts = [f"{number}.{one} " for one in range(size)]
            said.extend(texts)
            say(ticket, *texts)
            if waits:
                await asyncio.sleep(0)
        end(ticket)
        await listening
        assert text_of(heard) == "".join(said)
        assert heard[-1][-1] == END

    asyncio.run(asyncio.wait_for(check(), 60))
