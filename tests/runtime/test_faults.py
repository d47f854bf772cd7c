"""Workers die in every way there is, under load: what they served goes on, others hear nothing."""

from __future__ import annotations

import asyncio

import pytest

from samovar.runtime.runtime import Runtime
from tests.runtime.faulty_worker import trigger
from tests.runtime.serving import (
    SEQUENCES,
    Place,
    configured,
    heard_of,
    listen,
    load,
    nothing_left_behind,
    request,
    serving,
    undisturbed,
    until,
)


@pytest.mark.parametrize("fault", ["segv", "abort", "hang", "kill", "exit", "bug", "memory"])
def test_streams_of_a_worker_that_dies_go_on_and_others_do_not_notice(
    place: Place, fault: str
) -> None:
    """The new worker waits for a gate, which is opened when the other model's streams are done."""
    bad = request(100, prompt=b"now die " + trigger(fault, 3), request_id="bad", max_tokens=20)
    there = [request(i) for i in range(SEQUENCES - 1)]
    elsewhere = [request(i, max_tokens=150) for i in range(20, 20 + SEQUENCES)]

    async def main() -> None:
        async with nothing_left_behind(), Runtime(configured(stuck_seconds=3.0)) as runtime:
            await load(runtime, place, "a", seconds=0.005, boots=["", "gate"])
            await load(runtime, place, "b", seconds=0.005)
            pid = runtime.status()["a"]["pid"]
            others = [listen(runtime, "b", one) for one in elsewhere]
            streams = [listen(runtime, "a", one) for one in [*there, bad]]
            done = [await one.done() for one in others]
            assert [(one.tokens, one.text) for one in done] == undisturbed(*elsewhere)
            await until(lambda: runtime.status()["a"]["pid"] not in (pid, None))
            assert not any(one.heard.ends for one in streams)
            place.open_gate("a")
            found = [await one.done() for one in streams]
            expected = undisturbed(*there, bad)
            assert [(one.tokens, one.text) for one in found] == expected
            assert all(one.is_finished for one in found)
            assert runtime.status()["a"]["restarts"] == 1
            assert runtime.status()["b"]["restarts"] == 0

    asyncio.run(main())


def test_a_worker_that_dies_while_it_loads_again_is_started_once_more(place: Place) -> None:
    requests = [request(i) for i in range(4)]
    bad = request(9, prompt=b"x" + trigger("segv", 2), request_id="bad", max_tokens=10)

    async def main() -> None:
        boots = ["", "exit", "kill", "bug"]
        async with (
            nothing_left_behind(),
            serving(place, config=configured(), boots=boots, seconds=0.002) as runtime,
        ):
            found = await heard_of(runtime, "a", *requests, bad)
            assert [(one.tokens, one.text) for one in found] == undisturbed(*requests, bad)
            assert place.boots() == 5

    asyncio.run(main())


def test_a_worker_that_says_why_it_cannot_load_again_is_not_tried_in_a_loop(place: Place) -> None:
    bad = request(9, prompt=b"x" + trigger("segv", 2), request_id="bad", max_tokens=10)

    async def main() -> None:
        async with serving(place, config=configured(), boots=["", "fail"]) as runtime:
            found = await heard_of(runtime, "a", request(1), bad)
            assert [one.failure for one in found] == ["load_failed", "load_failed"]
            (later,) = await heard_of(runtime, "a", request(2))
            assert later.failure == "load_failed"
            assert place.boots() == 2
            await load(runtime, place)  # whoever loads it again tries anew
            (again,) = await heard_of(runtime, "a", request(2))
            assert again.is_finished

    asyncio.run(main())


def test_beyond_so_many_deaths_requests_fail_as_lost(place: Place) -> None:
    async def main() -> None:
        config = configured(restarts=2, restart_window=1e6)
        async with serving(place, config=config, boots=["", *["exit"] * 9]) as runtime:
            bad = request(9, prompt=b"x" + trigger("segv", 2), request_id="bad", max_tokens=10)
            found = await heard_of(runtime, "a", bad, request(1))
            assert [one.failure for one in found] == ["worker_lost", "worker_lost"]
            assert place.boots() == 3

    asyncio.run(main())
