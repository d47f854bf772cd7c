"""Models that share a limit of memory: idle ones go for a new one, busy ones stay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from samovar.config import RuntimeConfig, WorkerConfig
from samovar.errors import ModelNotFound, OutOfMemory
from samovar.runtime.plan import Need, best_need, least_need
from samovar.runtime.runtime import Runtime
from samovar.types import GenerateRequest, SamplingParams
from tests.conftest import Models
from tests.runtime.serving import children, listen, nothing_left_behind

WORKER = WorkerConfig(context_length=4096, num_sequences=2, threads=1)


def needed(path: Path, config: WorkerConfig = WORKER) -> Need:
    found = least_need(str(path), config)
    assert found is not None
    return found


def limited(limit: int) -> RuntimeConfig:
    return RuntimeConfig(memory_bytes=limit, keep_alive_seconds=None)


def test_the_longest_idle_goes_for_a_model_that_does_not_fit_beside_it(models: Models) -> None:
    paths = [models(seed=seed, context_length=4096) for seed in (1, 2, 3)]
    limit = needed(paths[0]).total * 5 // 2  # lanes for none, the pool for two

    async def main() -> None:
        async with nothing_left_behind(), Runtime(limited(limit)) as runtime:
            for name, path in zip("abc", paths, strict=True):
                await runtime.load(name, str(path), WORKER)
                if name == "b":
                    await runtime.ask("a", "status")  # used after b was loaded
            assert set(runtime.status()) == {"a", "c"}

    asyncio.run(main())


def test_a_busy_model_stays_and_the_other_is_refused_with_the_numbers(models: Models) -> None:
    path, other = (models(seed=seed, context_length=4096) for seed in (1, 2))
    need = needed(path)

    async def main() -> None:
        async with nothing_left_behind(), Runtime(limited(need.total * 3 // 2)) as runtime:
            await runtime.load("a", str(path), WORKER)
            forever = SamplingParams(ignore_eos=True)
            stream = listen(runtime, "a", GenerateRequest("r", "Once", forever, max_tokens=3000))
            await stream.heard.at_least(1)
            with pytest.raises(OutOfMemory) as refused:
                await runtime.load("b", str(other), WORKER)
            said = str(refused.value)
            assert "4096 tokens x 2 sequences" in said
            assert f"{need.weights / 2**20:.0f} MiB of weights" in said
            assert "1 loaded and busy" in said
            assert set(runtime.status()) == {"a"}
            runtime.cancel("a", "r")
            await stream.done()
            await runtime.load("b", str(other), WORKER)
            assert set(runtime.status()) == {"b"}

    asyncio.run(main())


def test_a_context_that_nobody_sized_is_cut_to_the_limit(models: Models) -> None:
    path = models(context_length=65536)
    config = WorkerConfig(num_sequences=2, threads=1)
    least = needed(path, config)
    assert least.config.context_length == 4096

    async def main() -> None:
        async with nothing_left_behind(), Runtime(limited(least.total * 3)) as runtime:
            ready = await runtime.load("a", str(path), config)
            assert 4096 < ready.context_length < 65536
            best = best_need(str(path), config, least.total * 3)
            assert best is not None
            assert (best.config.context_length, best.config.kv_layout) == (
                ready.context_length,
                ready.layout,
            )
            assert best.total <= least.total * 3

    asyncio.run(main())


def test_what_never_fits_starts_no_process(models: Models) -> None:
    path = models(context_length=4096)

    async def main() -> None:
        async with nothing_left_behind(), Runtime(limited(needed(path).total - 1)) as runtime:
            with pytest.raises(OutOfMemory, match="smaller context"):
                await runtime.load("a", str(path), WORKER)
            assert not children()
            assert runtime.status() == {}

    asyncio.run(main())


def test_a_file_that_is_none_is_explained_by_whoever_reads_it(models: Models) -> None:
    async def main() -> None:
        async with nothing_left_behind(), Runtime(limited(2**30)) as runtime:
            await runtime.load("a", str(models()), WORKER)
            with pytest.raises(ModelNotFound, match=r"nowhere\.gguf"):
                await runtime.load("b", "/nowhere.gguf", WORKER)
            assert set(runtime.status()) == {"a"}

    asyncio.run(main())


def test_more_room_means_no_shorter_context_and_lanes_where_they_fit(models: Models) -> None:
    path, config = str(models(context_length=65536)), WorkerConfig(num_sequences=4)
    least = needed(Path(path), config)
    rooms = [least.total * part // 8 for part in range(8, 800, 4)]
    found = [best_need(path, config, room) for room in rooms]
    assert all(
        one is not None and one.total <= room for one, room in zip(found, rooms, strict=True)
    )
    lengths = [one.config.context_length for one in found if one is not None]
    assert lengths == sorted(lengths)
    assert {one.config.kv_layout for one in found if one is not None} == {"lanes", "pool"}
    assert best_need(path, config, least.total - 1) is None
