"""Who is blamed for the death of a worker, tried, cleared and refused."""

from __future__ import annotations

import asyncio
import signal

import pytest

from samovar.runtime.supervisor import Death
from samovar.runtime.ticket import Ticket
from samovar.types import EmbedRequest, TextDelta
from tests.runtime.faulty_worker import trigger
from tests.runtime.serving import (
    Place,
    configured,
    heard_of,
    request,
    serving,
    undisturbed,
)


@pytest.mark.parametrize(("fault", "deaths"), [("segv", 3), ("bug", 3), ("kill", 4)])
def test_a_request_that_kills_again_and_again_is_refused_and_the_others_finish(
    place: Place, fault: str, deaths: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is tried beside others has to do it again alone; SIGKILL may come from outside."""
    good = [request(i, max_tokens=80) for i in range(5)]
    bad = request(9, prompt=b"secret" + trigger(fault, 5), request_id="culprit", max_tokens=40)

    async def main() -> None:
        config = configured(restarts=5, restart_window=1e6)
        async with serving(place, config=config, times=99, seconds=0.002) as runtime:
            *found, ended = await heard_of(runtime, "a", *good, bad)
            assert [(one.tokens, one.text) for one in found] == undisturbed(*good)
            assert ended.failure == "poisonous_request"
            (later,) = await heard_of(runtime, "a", request(3, request_id="later"))
            assert later.is_finished
            assert place.boots() <= deaths + 1

    asyncio.run(main())
    said = caplog.text
    assert "culprit" in said
    assert "secret" not in said
    assert "system prompt" not in said


def test_a_culprit_that_was_alone_kills_two_workers_and_no_more(place: Place) -> None:
    async def main() -> None:
        async with serving(place, config=configured(), times=99) as runtime:
            bad = request(9, prompt=b"x" + trigger("abort", 3), request_id="bad", max_tokens=40)
            (heard,) = await heard_of(runtime, "a", bad)
            assert heard.failure == "poisonous_request"
            await heard_of(runtime, "a", request(1))
            assert place.boots() == 3

    asyncio.run(main())


def test_two_culprits_at_once_are_both_found(place: Place) -> None:
    good = [request(i) for i in range(4)]
    bad = [
        request(i, prompt=b"%d" % i + trigger("segv", i), request_id=f"bad{i}", max_tokens=30)
        for i in (4, 9)
    ]

    async def main() -> None:
        config = configured(restarts=5, restart_window=1e6)
        async with serving(place, config=config, times=99, seconds=0.002) as runtime:
            found = await heard_of(runtime, "a", *good[:2], *bad, *good[2:])
            assert [found[i].failure for i in (2, 3)] == ["poisonous_request"] * 2
            rest = [found[i] for i in (0, 1, 4, 5)]
            assert [(one.tokens, one.text) for one in rest] == undisturbed(*good)

    asyncio.run(main())


# ---- the ticket alone ----------------------------------------------------------------------------


def ticket(*, blame: float = 1.0, died_at: int = 0) -> Ticket:
    async def made() -> Ticket:
        return Ticket(request(1), 0.0, lambda _: None, blame=blame, died_at=died_at)

    return asyncio.run(made())


def say(one: Ticket, tokens: int) -> None:
    one.take(TextDelta("r1", "", tuple([65] * tokens)))


def test_a_suspect_is_cleared_once_it_is_past_where_it_died() -> None:
    one = ticket(died_at=10)
    say(one, 13)
    assert one.is_suspect
    say(one, 1)
    assert not one.is_suspect
    assert one.blame == 0


def test_a_suspect_that_was_cleared_before_needs_more_proof() -> None:
    one = ticket()
    say(one, 4)
    assert not one.is_suspect
    one.blame, one.died_at = 1.0, one.num_generated
    say(one, 15)
    assert one.is_suspect
    say(one, 1)
    assert not one.is_suspect


def test_one_kill_from_outside_makes_no_suspects() -> None:
    one = ticket(blame=Death(-signal.SIGKILL).blame)
    assert not one.is_suspect
    one.blame += Death(-signal.SIGKILL).blame
    assert one.is_suspect


def test_what_is_no_text_is_a_suspect_until_it_ends() -> None:
    async def main() -> None:
        one = Ticket(EmbedRequest("e", ("x",)), 0.0, lambda _: None, blame=1.0)
        assert one.is_suspect
        one.fail("overloaded", "later", retryable=True)
        assert not one.is_suspect

    asyncio.run(main())


@pytest.mark.parametrize(
    ("death", "blame"),
    [
        (Death(-signal.SIGSEGV), 1.0),
        (Death(-signal.SIGABRT), 1.0),
        (Death(-signal.SIGKILL, was_stuck=True), 1.0),
        (Death(13), 1.0),
        (Death(1), 1.0),
        (Death(-signal.SIGKILL), 0.5),
        (Death(-signal.SIGTERM), 0.0),
        (Death(0), 0.0),
        (Death(11), 0.0),
    ],
    ids=str,
)
def test_deaths_blame_what_ran_by_how_likely_it_was_the_cause(death: Death, blame: float) -> None:
    assert death.blame == blame
