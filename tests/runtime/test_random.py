"""Anything happens in any order: kills, cancellations, requests, unloading; nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from samovar.errors import ModelNotFound, Overloaded
from samovar.runtime.runtime import Runtime
from samovar.types import EmbedRequest, Finished
from tests.conftest import scaled
from tests.runtime.serving import (
    SEQUENCES,
    Place,
    Stream,
    children,
    configured,
    listen,
    load,
    nothing_left_behind,
    request,
    undisturbed,
)

NAMES = ("a", "b")


@dataclass
class Walk:
    """Random operations on two models, and what must be true after each."""

    runtime: Runtime
    place: Place
    random: random.Random
    streams: dict[str, Stream] = field(default_factory=dict)
    kills: int = 0
    number: int = 0

    async def step(self) -> None:
        """Do something and look."""
        do = self.random.choices(
            [self.submit, self.cancel, self.kill, self.unload, self.load, self.wait],
            [40, 20, 8, 2, 8, 22],
        )[0]
        with contextlib.suppress(ModelNotFound, Overloaded):
            await asyncio.wait_for(do(self.random.choice(NAMES)), 120)
        self.look()

    async def submit(self, name: str) -> None:
        """A request of either kind."""
        if name not in self.runtime.status():
            return
        self.number += 1
        if self.random.random() < 0.15:
            asked = EmbedRequest(f"e{self.number}", ("one", "two"))
        else:
            tokens = self.random.choice([1, 5, 30, 120])
            asked = request(self.number, max_tokens=tokens)
        self.streams[asked.request_id] = listen(self.runtime, name, asked)
        await asyncio.sleep(0)

    async def cancel(self, name: str) -> None:
        """By id, or by leaving."""
        if not self.streams:
            return
        one = self.random.choice(list(self.streams))
        self.runtime.cancel(name, one)

    async def kill(self, name: str) -> None:
        """The process, if there is one."""
        pid = self.runtime.status().get(name, {}).get("pid")
        if pid is not None:
            number = self.random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
            with contextlib.suppress(ProcessLookupError):  # it has died, and nobody knows yet
                os.kill(pid, number)
                self.kills += 1

    async def unload(self, name: str) -> None:
        """At once, or after what runs."""
        await self.runtime.unload(name, self.random.choice([0.0, 0.2]))

    async def load(self, name: str) -> None:
        """Again, if it is not there."""
        await load(self.runtime, self.place, name, seconds=0.002)

    async def wait(self, _: str) -> None:
        """For whatever happens meanwhile."""
        await asyncio.sleep(self.random.random() * 0.05)

    def look(self) -> None:
        """At most one process for each model, and for each request one end at most."""
        assert len(children()) <= len(NAMES)
        assert all(len(one.heard.ends) <= 1 for one in self.streams.values())

    async def finish(self) -> None:
        """Everything ends, and where it ended well it is what it would have been."""
        for key, stream in list(self.streams.items()):
            heard = await stream.done()
            end = heard.end
            if isinstance(end, Finished) and end.choices[0].reason != "cancelled":
                asked = request(int(key[1:]), max_tokens=max(1, len(heard.tokens)))
                assert [(heard.tokens, heard.text)] == undisturbed(asked)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(scaled(1, 4)))
def test_whatever_happens_nothing_is_lost_or_left_over(tmp_path: Path, seed: int) -> None:
    async def main() -> None:
        config = configured(restarts=3, restart_window=2.0)
        async with nothing_left_behind(), Runtime(config) as runtime:
            walk = Walk(runtime, Place(tmp_path), random.Random(seed))
            for name in NAMES:
                await walk.load(name)
            for _ in range(scaled(120, 1000)):
                await walk.step()
            await walk.finish()
            assert walk.kills
            for name, status in runtime.status().items():
                assert status["open_requests"] == 0
                await load(runtime, walk.place, name)
                assert (await _asked(runtime, name))["running"] == 0
                assert (await _asked(runtime, name))["sequences"] == SEQUENCES

    asyncio.run(main())


async def _asked(runtime: Runtime, name: str) -> dict[str, int]:
    found: dict[str, int] = await runtime.ask(name, "status")
    return found
