"""Requests that nobody wants any more end at once, in whatever phase they and their worker are."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing

from samovar.config import WorkerConfig
from samovar.runtime.runtime import Runtime
from samovar.types import Begun, Failed, Finished
from tests.runtime.faulty_worker import trigger
from tests.runtime.serving import (
    PATIENCE,
    Heard,
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


def is_cancelled(heard: Heard) -> bool:
    assert isinstance(heard.end, Finished)
    return [one.reason for one in heard.end.choices] == ["cancelled"]


async def is_empty(runtime: Runtime) -> bool:
    status = await runtime.ask("a", "status")
    return not (status["running"] or status["waiting"] or runtime.status()["a"]["open_requests"])


def test_running_and_waiting_requests_are_cancelled_and_others_go_on(place: Place) -> None:
    async def main() -> None:
        worker = WorkerConfig(num_sequences=2, context_length=512)
        async with serving(place, config=configured(), seconds=0.005, worker=worker) as runtime:
            kept = request(1, max_tokens=200)
            staying = listen(runtime, "a", kept)
            running = listen(runtime, "a", request(2, max_tokens=400))
            await running.heard.at_least(5)
            waiting = listen(runtime, "a", request(3, max_tokens=400))
            await asyncio.sleep(0)
            for one in ("r2", "r3", "nobody"):
                runtime.cancel("a", one)
            assert is_cancelled(await running.done())
            assert is_cancelled(await waiting.done())
            stayed = await staying.done()
            assert [(stayed.tokens, stayed.text)] == undisturbed(kept)
            assert await is_empty(runtime)

    asyncio.run(main())


def test_leaving_a_stream_early_ends_its_request(place: Place) -> None:
    async def main() -> None:
        async with serving(place, config=configured(), seconds=0.005) as runtime:
            async with aclosing(runtime.generate("a", request(1, max_tokens=400))) as events:
                async for _ in events:
                    break
            async with asyncio.timeout(PATIENCE):
                while not await is_empty(runtime):  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_while_a_worker_is_started_again_a_cancelled_request_ends_at_once(place: Place) -> None:
    async def main() -> None:
        boots = ["", "gate"]
        async with serving(place, config=configured(), boots=boots, seconds=0.01) as runtime:
            pid = runtime.status()["a"]["pid"]
            good, other = request(1, max_tokens=300), request(2, max_tokens=300)
            kept, dropped = listen(runtime, "a", good), listen(runtime, "a", other)
            await kept.heard.at_least(3)
            await dropped.heard.at_least(3)
            kill(pid)
            await until(lambda: runtime.status()["a"]["pid"] not in (pid, None))
            late = listen(runtime, "a", request(3))
            await asyncio.sleep(0)
            runtime.cancel("a", "r2")
            runtime.cancel("a", "r3")
            assert is_cancelled(await dropped.done())
            assert is_cancelled(await late.done())
            assert not kept.heard.ends
            place.open_gate()
            found = await kept.done()
            assert [(found.tokens, found.text)] == undisturbed(good)
            assert await is_empty(runtime)

    asyncio.run(main())


def test_what_was_cancelled_before_its_worker_died_is_not_computed_for_nobody(
    place: Place,
) -> None:
    """The worker hangs, hears of the cancellation and never acts on it."""

    async def main() -> None:
        config = configured(stuck_seconds=1.0)
        async with serving(place, config=config, boots=["", "gate"]) as runtime:
            bad = request(1, prompt=b"x" + trigger("hang", 2), request_id="bad", max_tokens=400)
            stream = listen(runtime, "a", bad)
            await stream.heard.at_least(1)
            runtime.cancel("a", "bad")
            assert is_cancelled(await stream.done())
            assert runtime.status()["a"]["open_requests"] == 0
            place.open_gate()
            (after,) = await heard_of(runtime, "a", request(2))
            assert after.is_finished

    asyncio.run(main())


def test_a_deadline_holds_while_there_is_no_worker(place: Place) -> None:
    async def main() -> None:
        boots = ["", "gate"]
        async with serving(place, config=configured(), boots=boots, seconds=0.01) as runtime:
            pid = runtime.status()["a"]["pid"]
            hurried = request(1, max_tokens=400, timeout_seconds=3.0)
            running = listen(runtime, "a", hurried)
            await running.heard.at_least(2)
            kill(pid)
            late = listen(runtime, "a", request(2, timeout_seconds=0.5))
            assert (await late.done()).failure == "deadline_exceeded"
            assert (await running.done()).failure == "deadline_exceeded"
            assert place.boots() <= 2

    asyncio.run(main())


def test_unloading_lets_what_runs_finish_or_hands_it_back(place: Place) -> None:
    async def main() -> None:
        async with nothing_left_behind(), Runtime(configured()) as runtime:
            await load(runtime, place, seconds=0.002)
            good = request(1, max_tokens=100)
            stream = listen(runtime, "a", good)
            await stream.heard.at_least(1)
            await runtime.unload("a", 60.0)
            heard = await stream.done()
            assert [(heard.tokens, heard.text)] == undisturbed(good)

            await load(runtime, place, seconds=0.01)
            stream = listen(runtime, "a", request(2, max_tokens=400))
            await stream.heard.at_least(1)
            await runtime.unload("a", 0.0)
            assert (await stream.done()).failure == "overloaded"

    asyncio.run(main())


def test_unloading_while_there_is_no_worker_ends_everything_at_once(place: Place) -> None:
    async def main() -> None:
        async with nothing_left_behind(), Runtime(configured()) as runtime:
            await load(runtime, place, seconds=0.01, boots=["", "hang"])
            stream = listen(runtime, "a", request(1, max_tokens=400))
            await stream.heard.at_least(1)
            pid = runtime.status()["a"]["pid"]
            kill(pid)
            await until(lambda: runtime.status()["a"]["pid"] not in (pid, None))
            await runtime.unload("a", 1000.0)
            assert (await stream.done()).failure == "overloaded"

    asyncio.run(main())


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_request_of_which_nobody_takes_anything_is_ended(place: Place) -> None:
    async def main() -> None:
        async with serving(place, config=configured(), seconds=0.001) as runtime:
            stream = runtime.generate("a", request(1, max_tokens=400), most_waiting=8)
            async with aclosing(stream) as events:
                first = await anext(events)
                assert isinstance(first, Begun)
                async with asyncio.timeout(PATIENCE):
                    while not await is_empty(runtime):  # noqa: ASYNC110 - no event tells
                        await asyncio.sleep(0.01)
                rest = [event async for event in events]
            assert isinstance(rest[-1], Failed)
            assert rest[-1].code == "overloaded"
            assert len(rest) <= 16

    asyncio.run(main())
