"""Which models stay loaded, and what becomes of those that do not."""

from __future__ import annotations

import asyncio

import pytest

from samovar.errors import LoadFailed, ModelNotFound, OutOfMemory, Overloaded
from samovar.runtime.deaths import backoff
from samovar.runtime.runtime import Runtime
from tests.runtime.serving import (
    Place,
    children,
    configured,
    heard_of,
    listen,
    load,
    nothing_left_behind,
    request,
    undisturbed,
    until,
)


def test_one_model_more_takes_the_place_of_the_longest_idle_and_never_of_a_busy_one(
    place: Place,
) -> None:
    async def main() -> None:
        async with nothing_left_behind(), Runtime(configured(max_models=2)) as runtime:
            await load(runtime, place, "a", seconds=0.25)
            await load(runtime, place, "b", seconds=0.01)
            busy = listen(runtime, "a", request(1, max_tokens=400))
            await busy.heard.at_least(1)
            await load(runtime, place, "c", seconds=0.25)
            assert set(runtime.status()) == {"a", "c"}

            also_busy = listen(runtime, "c", request(2, max_tokens=400))
            await also_busy.heard.at_least(1)
            with pytest.raises(Overloaded, match="2 models"):
                await load(runtime, place, "b")
            runtime.cancel("a", "r1")
            runtime.cancel("c", "r2")
            await busy.done()
            await also_busy.done()
            await load(runtime, place, "b")
            assert set(runtime.status()) == {"b", "c"}  # a has been idle for longer
            assert len(children()) == 2

    asyncio.run(main())


def test_a_model_is_unloaded_once_it_was_idle_for_long_enough(place: Place) -> None:
    async def main() -> None:
        async with (
            nothing_left_behind(),
            Runtime(configured(keep_alive_seconds=0.3)) as runtime,
        ):
            await load(runtime, place, seconds=0.01)
            good = request(1, max_tokens=150)
            (heard,) = await heard_of(runtime, "a", good)  # takes longer than it may be idle
            assert [(heard.tokens, heard.text)] == undisturbed(good)
            await until(lambda: not runtime.status())
            with pytest.raises(ModelNotFound):
                await heard_of(runtime, "a", good)
            await until(lambda: not children())

    asyncio.run(main())


def test_how_long_a_model_stays_can_be_said_of_each(place: Place) -> None:
    async def main() -> None:
        async with (
            nothing_left_behind(),
            Runtime(configured(keep_alive_seconds=0.3)) as runtime,
        ):
            await load(runtime, place, "kept")
            runtime.keep("kept", None)
            await load(runtime, place, "usual")
            await load(runtime, place, "brief")
            runtime.keep("brief", 0)
            assert runtime.status()["kept"]["remaining_seconds"] is None
            assert runtime.status()["brief"]["remaining_seconds"] < 0.3
            await until(lambda: set(runtime.status()) == {"kept"})
            with pytest.raises(ModelNotFound):
                runtime.keep("brief", 1)

            await load(runtime, place, "brief")  # what was said of it went with it
            assert 0 < runtime.status()["brief"]["remaining_seconds"] <= 0.3
            runtime.keep("kept", 0)
            await until(lambda: not runtime.status())

    asyncio.run(main())


def test_a_model_that_is_not_to_stay_goes_where_models_stay_for_ever(place: Place) -> None:
    async def main() -> None:
        async with nothing_left_behind(), Runtime(configured()) as runtime:
            await load(runtime, place, seconds=0.01)
            good = request(1, max_tokens=100)
            stream = listen(runtime, "a", good)
            await stream.heard.at_least(1)
            runtime.keep("a", 0)
            await stream.done()  # whoever runs on it is not cut off
            assert [(stream.heard.tokens, stream.heard.text)] == undisturbed(good)
            await until(lambda: not runtime.status())

    asyncio.run(main())


def test_a_model_that_does_not_fit_is_tried_again_without_the_idle_ones(place: Place) -> None:
    async def main() -> None:
        async with nothing_left_behind(), Runtime(configured()) as runtime:
            await load(runtime, place, "a", seconds=0.25)
            await load(runtime, place, "b")
            busy = listen(runtime, "a", request(1, max_tokens=400))
            await busy.heard.at_least(1)
            await load(runtime, place, "c", boots=["full"])
            assert set(runtime.status()) == {"a", "c"}
            with pytest.raises(OutOfMemory, match="too large"):
                await load(runtime, place, "d", boots=["full"] * 9)
            assert set(runtime.status()) == {"a"}
            assert not busy.heard.ends
            runtime.cancel("a", "r1")
            await busy.done()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("boots", "kind", "says"),
    [
        (["fail"], LoadFailed, "made to fail"),
        (["exit"], LoadFailed, "code 7"),
        (["bug"], LoadFailed, "RuntimeError: it was made to fail"),
        (["kill"], OutOfMemory, "too little memory"),
    ],
    ids=lambda one: one[0] if isinstance(one, list) else "",
)
def test_a_first_load_that_fails_is_explained_and_not_repeated(
    place: Place, boots: list[str], kind: type[LoadFailed], says: str
) -> None:
    async def main() -> None:
        async with nothing_left_behind(), Runtime(configured()) as runtime:
            with pytest.raises(kind, match=says):
                await load(runtime, place, boots=boots)
            assert place.boots() == 1
            assert runtime.status() == {}
            await load(runtime, place)

    asyncio.run(main())


def test_a_load_that_hangs_is_ended(place: Place) -> None:
    async def main() -> None:
        async with nothing_left_behind(), Runtime(configured(boot_seconds=1.0)) as runtime:
            with pytest.raises(LoadFailed, match="no progress"):
                await load(runtime, place, boots=["hang"])

    asyncio.run(main())


def test_whoever_loads_may_give_up(place: Place) -> None:
    async def main() -> None:
        async with nothing_left_behind(), Runtime(configured()) as runtime:
            loading = asyncio.create_task(load(runtime, place, boots=["hang"]))
            await until(lambda: runtime.status().get("a", {}).get("progress") == 0.5)
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            assert not children()

    asyncio.run(main())


def test_closing_ends_a_load_that_goes_on(place: Place) -> None:
    async def main() -> None:
        async with nothing_left_behind():
            runtime = Runtime(configured())
            loading = asyncio.create_task(load(runtime, place, boots=["hang"]))
            waiting = asyncio.create_task(load(runtime, place, "b"))
            await until(lambda: runtime.status().get("a", {}).get("progress") == 0.5)
            await runtime.close()
            with pytest.raises(LoadFailed):
                await loading
            with pytest.raises(Overloaded, match="closed"):
                await waiting
            assert not children()

    asyncio.run(main())


def test_closing_ends_a_load_that_waits_for_another_model_to_go(place: Place) -> None:
    async def main() -> None:
        async with nothing_left_behind():
            runtime = Runtime(configured(max_models=1))
            await load(runtime, place)
            waiting = asyncio.create_task(load(runtime, place, "b"))
            await until(lambda: "a" not in runtime.status())
            await runtime.close()
            with pytest.raises(Overloaded, match="closed"):
                await waiting
            assert not children()

    asyncio.run(main())


def test_many_who_load_the_same_model_get_one_process_and_do_not_wait_for_others(
    place: Place,
) -> None:
    async def main() -> None:
        async with nothing_left_behind(), Runtime(configured()) as runtime:
            await asyncio.gather(*(load(runtime, place) for _ in range(5)))
            assert place.boots() == 1
            slow = asyncio.create_task(load(runtime, place, "b", boots=["gate"]))
            await until(lambda: "b" in runtime.status())
            await load(runtime, place)  # it is there: nobody has to wait for b
            assert not slow.done()
            place.open_gate("b")
            await slow

    asyncio.run(main())


def test_a_model_that_is_loaded_while_it_is_unloaded_never_has_two_processes(
    place: Place,
) -> None:
    async def main() -> None:
        async with nothing_left_behind(), Runtime(configured()) as runtime:
            await load(runtime, place, seconds=0.02)
            last = listen(runtime, "a", request(1, max_tokens=60))
            await last.heard.at_least(1)
            leaving = asyncio.create_task(runtime.unload("a", 60.0))
            await asyncio.sleep(0)
            assert not last.heard.ends
            await load(runtime, place, seconds=0.02)
            assert last.heard.is_finished
            assert len(children()) == 1
            await leaving

    asyncio.run(main())


def test_pauses_before_a_restart_double_up_to_the_longest() -> None:
    config = configured(first_backoff=0.1, most_backoff=1.0)
    assert [backoff(config, n) for n in (1, 2, 3, 4, 5, 10**6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert backoff(configured(first_backoff=0.0), 9) == 0.0
