"""Workers die in every way there is, under load: what they served goes on, others hear nothing."""

from __future__ import annotations

import asyncio

import pytest

from samovar.native import philox
from samovar.native.weightless import WeightlessBackend
from samovar.runtime.runtime import Runtime
from samovar.types import Finished
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


@pytest.mark.parametrize(("at", "after"), [(20, 4), (150, 4), (240, 10)])
def test_a_request_begins_once_whenever_its_worker_dies(place: Place, at: int, after: int) -> None:
    """In the step that begins its prompt, in a later one, in its answer; `Heard` wants it once."""
    text = b"a prompt of some steps, " * 10
    asked = request(1, prompt=text[:at] + trigger("kill", after) + text[at:])

    async def main() -> None:
        async with nothing_left_behind(), serving(place, config=configured()) as runtime:
            (heard,) = await heard_of(runtime, "a", asked)
            assert runtime.status()["a"]["restarts"] == 1
            assert isinstance(heard.end, Finished)
            assert heard.begun is not None
            assert heard.begun.prompt_tokens == heard.end.usage.prompt_tokens
            assert (heard.tokens, heard.text) == undisturbed(asked)[0]

    asyncio.run(main())


@pytest.mark.parametrize("place_of_death", [20, 280])
def test_log_probabilities_of_a_prompt_are_told_once_whenever_a_worker_dies(
    place: Place, place_of_death: int
) -> None:
    text = b"a prompt that is told all about, " * 10
    deadly = text[:place_of_death] + trigger("kill", 4) + text[place_of_death:]
    asked = request(1, prompt=deadly, prompt_logprobs=2, max_tokens=5)

    async def main() -> None:
        async with nothing_left_behind(), serving(place, config=configured()) as runtime:
            (heard,) = await heard_of(runtime, "a", asked)
            assert runtime.status()["a"]["restarts"] == 1
            assert heard.is_finished
            assert (heard.tokens, heard.text) == undisturbed(asked)[0]
            backend = WeightlessBackend()
            tokens = backend.tokenize(deadly)
            assert [at for at, _ in heard.scores] == list(range(1, len(tokens)))
            for token, (at, one) in zip(tokens, heard.scores, strict=False):
                backend.prefill([token])
                right = philox.logprobs(backend.logits(0), tokens[at], 2)
                assert (one.token, one.chosen, one.top) == (tokens[at], right.chosen, right.top)

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
