"""A model that many wait for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from samovar.config import RuntimeConfig
from samovar.errors import ModelNotFound
from samovar.runtime.runtime import Runtime
from samovar.server.loading import Loading
from samovar.server.served import Served, ServedModel
from tests.runtime.serving import PATIENCE, Place, configured, until


def _served(runtime: Runtime, place: Place, **options: object) -> Served:
    return Served(runtime, [ServedModel("a", place.path("a", **options), cache=None)])


def test_who_leaves_does_not_end_it_for_others(tmp_path: Path) -> None:
    async def check() -> None:
        place = Place(tmp_path)
        async with Runtime(configured()) as runtime, asyncio.timeout(PATIENCE):
            served = _served(runtime, place)
            first, second = (asyncio.create_task(served.ready("a")) for _ in range(2))
            await until(lambda: bool(runtime.status()))
            first.cancel()
            assert (await second).num_sequences > 0
            assert place.boots() == 1
            with pytest.raises(asyncio.CancelledError):
                await first

    asyncio.run(check())


def test_whoever_comes_while_a_loading_is_given_up_begins_anew(tmp_path: Path) -> None:
    async def check() -> None:
        async with Runtime(configured()) as runtime, asyncio.timeout(PATIENCE):
            served = _served(runtime, Place(tmp_path))
            first = asyncio.create_task(served.ready("a"))
            await until(lambda: bool(runtime.status()))
            first.cancel()
            await asyncio.sleep(0)  # it has heard of that, and its process has not
            assert (await served.ready("a")).num_sequences > 0

    asyncio.run(check())


def test_everybody_is_told_what_went_wrong(tmp_path: Path) -> None:
    async def check() -> None:
        async with Runtime(RuntimeConfig()) as runtime:
            served = Served(runtime, [ServedModel("a", str(tmp_path / "none.gguf"), cache=None)])
            waiting = [served.ready("a") for _ in range(3)]
            found = await asyncio.gather(*waiting, return_exceptions=True)
            assert len({id(one) for one in found}) == 3
            assert {type(one) for one in found} == {type(found[0])}
            with pytest.raises(ModelNotFound):
                await served.ready("other")

    asyncio.run(check())


def test_a_loading_that_fails_is_not_remembered() -> None:
    async def check() -> None:
        ended: list[Loading] = []

        async def fail() -> None:
            raise ModelNotFound("none")

        loading = Loading(fail(), ended.append)  # type: ignore[arg-type]
        with pytest.raises(ModelNotFound):
            await loading.wait()
        await asyncio.sleep(0)
        assert ended == [loading]

    asyncio.run(check())
