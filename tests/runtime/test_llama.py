"""Real llama.cpp behind the wall: after a kill in mid-stream texts are what they would have been.

In deterministic mode to the last token, drawn ones included; otherwise greedy ones as far as float
noise cannot change them (see tests/engine/test_llama_texts.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from samovar import models as built_in
from samovar.config import CacheConfig, RuntimeConfig, WorkerConfig
from samovar.runtime.runtime import Runtime
from samovar.types import Finished, GenerateRequest, SamplingParams
from tests.conftest import Models
from tests.engine.test_llama_texts import alone, noise, num_clear, opened
from tests.native.test_backend import prompt
from tests.runtime.serving import Heard, listen, nothing_left_behind

pytestmark = pytest.mark.native

LONG = "Once upon a time there was a small fox who lived in a forest with all of his friends. " * 6
CONFIG = RuntimeConfig(first_backoff=0.001, keep_alive_seconds=None)
WORKER = {"context_length": 512, "num_sequences": 4, "threads": 1, "batch_size": 64}


def cache(folder: Path) -> CacheConfig:
    return CacheConfig(directory=folder, block_size=16, min_tokens=16, memory_bytes=2**24)


async def heard(
    path: str,
    asked: list[GenerateRequest],
    *,
    worker: WorkerConfig,
    kept: CacheConfig | None = None,
    is_killed: bool = False,
) -> list[Heard]:
    """What a model says; its process may be killed once each has said some, and is on disk."""
    async with nothing_left_behind(), Runtime(CONFIG) as runtime:
        await runtime.load("m", path, worker, kept)
        streams = [listen(runtime, "m", one) for one in asked]
        if is_killed:
            for one in streams:
                await one.heard.at_least(5)
            async with asyncio.timeout(60):
                while not await _disk_bytes(runtime):  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.01)
            pid = runtime.status()["m"]["pid"]
            assert not all(one.heard.ends for one in streams), "too late"
            os.kill(pid, signal.SIGKILL)
        found = [await one.done() for one in streams]
        assert runtime.status()["m"]["restarts"] == int(is_killed)
    return found


async def _disk_bytes(runtime: Runtime) -> int:
    info = await runtime.ask("m", "cache_info")
    found: int = info["tiers"]["disk"]["bytes"]
    return found


def requests(texts: list[str | tuple[int, ...]], *, temperature: float) -> list[GenerateRequest]:
    return [
        GenerateRequest(
            f"r{i}",
            text,
            SamplingParams(temperature=temperature, seed=i, ignore_eos=True),
            max_tokens=150,
        )
        for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "drawn"])
def test_a_deterministic_model_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, temperature: float
) -> None:
    asked = requests([LONG, LONG + "The fox", LONG[:200]], temperature=temperature)
    path = str(built_in.path_of("samovar-mini"))
    worker = WorkerConfig(is_deterministic=True, **WORKER)  # type: ignore[arg-type]

    async def main() -> None:
        usual = await heard(path, asked, worker=worker)
        found = await heard(path, asked, worker=worker, kept=cache(tmp_path / "kv"), is_killed=True)
        assert [(one.text, one.tokens) for one in found] == [
            (one.text, one.tokens) for one in usual
        ]
        assert all(one.is_finished for one in found)
        from_disk = [one.end.usage.cached.disk for one in found if isinstance(one.end, Finished)]
        assert any(from_disk)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_any_model_goes_on_as_far_as_float_noise_decides_nothing(
    models: Models, tmp_path: Path, kind: str
) -> None:
    path = models(kind)
    asked = requests([tuple(prompt(100 + i, i)) for i in range(3)], temperature=0.0)
    worker = WorkerConfig(**WORKER)  # type: ignore[arg-type]

    async def main() -> None:
        found = await heard(
            str(path), asked, worker=worker, kept=cache(tmp_path / "kv"), is_killed=True
        )
        with opened(path) as backend:
            for one, answer in zip(asked, found, strict=True):
                whole = alone(backend, one)
                clear = num_clear(whole, noise(path))
                assert answer.tokens[:clear] == [token for token, _ in whole[:clear]]
                assert answer.is_finished

    asyncio.run(main())
