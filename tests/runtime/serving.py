"""Models without weights behind a Runtime: what to load, to ask, and what must not be left over."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samovar.config import CacheConfig, RuntimeConfig, WorkerConfig
from samovar.engine.engine import Engine
from samovar.ipc.requests import Request
from samovar.native.weightless import WeightlessBackend
from samovar.runtime.runtime import Runtime
from samovar.types import (
    Begun,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    PromptScores,
    SamplingParams,
    TextDelta,
    TokenLogprobs,
)

WORKER = Path(__file__).with_name("faulty_worker.py")
CONTEXT = 512
SEQUENCES = 8
PATIENCE = 120.0
"""Seconds: more than anything here takes, however busy the machine is."""


@dataclass(frozen=True)
class Place:
    """A folder in which models without weights count their faults."""

    folder: Path

    def path(self, name: str = "a", **options: Any) -> str:  # noqa: ANN401
        """What a model of these options is loaded from (see faulty_worker)."""
        own = self.folder / name
        own.mkdir(exist_ok=True)
        return json.dumps({"folder": str(own), **options})

    def cache(self, name: str = "a") -> CacheConfig:
        """A cache of small blocks."""
        return CacheConfig(
            directory=self.folder / name / "kv",
            block_size=16,
            min_tokens=8,
            memory_bytes=2**20,
            disk_bytes=2**26,
        )

    def boots(self, name: str = "a") -> int:
        """Processes that there have been of a model."""
        return (self.folder / name / "boots").stat().st_size

    def open_gate(self, name: str = "a") -> None:
        """Let processes that wait for it go on."""
        (self.folder / name / "gate").touch()


def configured(**more: Any) -> RuntimeConfig:  # noqa: ANN401
    """Workers that may die, and are started again at once."""
    usual: dict[str, Any] = {
        "command": (sys.executable, str(WORKER)),
        "first_backoff": 0.001,
        "ping_seconds": 0.1,
        "restarts": 50,
        "keep_alive_seconds": None,
    }
    return RuntimeConfig(**{**usual, **more})


async def load(runtime: Runtime, place: Place, name: str = "a", **options: Any) -> None:  # noqa: ANN401
    """Load a model of these options under a name, with a cache."""
    worker = WorkerConfig(num_sequences=SEQUENCES, context_length=CONTEXT)
    worker = options.pop("worker", worker)
    await runtime.load(name, place.path(name, **options), worker, place.cache(name))


@asynccontextmanager
async def serving(
    place: Place,
    *,
    config: RuntimeConfig,
    **options: Any,  # noqa: ANN401
) -> AsyncIterator[Runtime]:
    """One model `a` behind a runtime."""
    async with Runtime(config) as runtime:
        await load(runtime, place, **options)
        yield runtime


def request(number: int, *, max_tokens: int = 60, **more: Any) -> GenerateRequest:  # noqa: ANN401
    """The request of a number: some share a prefix, all draw."""
    prompt = b"the system prompt that all of them share, more or less; " + b"%d." % (number % 5)
    return GenerateRequest(
        more.pop("request_id", f"r{number}"),
        more.pop("prompt", prompt * (1 + number % 3)),
        SamplingParams(temperature=1.0, seed=number),
        max_tokens=max_tokens,
        **more,
    )


@dataclass(eq=False)
class Heard:
    """What came of a request so far."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    scores: list[tuple[int, TokenLogprobs]] = field(default_factory=list)
    """Of the prompt, with the place of each token."""
    begun: Begun | None = None
    ends: list[Event] = field(default_factory=list)
    waiters: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """One event more."""
        assert not self.ends, "something came after the terminal event"
        if isinstance(event, TextDelta):
            self.tokens += event.tokens
            self.text += event.text
        elif isinstance(event, PromptScores):
            self.scores += enumerate(event.logprobs, event.start)
        elif isinstance(event, Begun):
            assert self.begun is None, "it began twice"
            assert not self.tokens, "it began behind its tokens"
            assert not self.scores, "it began behind its scores"
            self.begun = event
        else:
            self.ends.append(event)
        for count, waiter in self.waiters:
            if not waiter.done() and (self.ends or len(self.tokens) >= count):
                waiter.set_result(None)

    async def at_least(self, tokens: int) -> None:
        """Wait until so many tokens have come, or the end."""
        if not self.ends and len(self.tokens) < tokens:
            waiter = asyncio.get_running_loop().create_future()
            self.waiters.append((tokens, waiter))
            await asyncio.wait_for(waiter, PATIENCE)

    @property
    def end(self) -> Event:
        """The terminal event: there is one."""
        assert len(self.ends) == 1
        return self.ends[0]

    @property
    def failure(self) -> str:
        """The code of its failure."""
        assert isinstance(self.end, Failed)
        return self.end.code

    @property
    def is_finished(self) -> bool:
        """Whether it came to a good end."""
        return isinstance(self.end, Finished)


@dataclass(eq=False)
class Stream:
    """A request and whoever listens to it."""

    heard: Heard
    task: asyncio.Task[None]

    async def done(self) -> Heard:
        """What came of it, when it is over."""
        await asyncio.wait_for(self.task, PATIENCE)
        return self.heard


def listen(runtime: Runtime, name: str, asked: Request) -> Stream:
    """Send a request and listen to it beside everything else."""
    heard = Heard()

    async def hear() -> None:
        async for event in runtime.generate(name, asked):
            heard.take(event)

    return Stream(heard, asyncio.get_running_loop().create_task(hear()))


async def heard_of(runtime: Runtime, name: str, *requests: Request) -> list[Heard]:
    """Send requests together; what came of each."""
    streams = [listen(runtime, name, one) for one in requests]
    return [await one.done() for one in streams]


def undisturbed(*requests: GenerateRequest) -> list[tuple[list[int], str]]:
    """Tokens and texts of requests when nothing goes wrong: from an engine in this process."""
    found = []
    for one in requests:
        engine = Engine(WeightlessBackend(context_length=CONTEXT))
        engine.submit(one)
        heard = Heard()
        for event in engine.run():
            heard.take(event)
        found.append((heard.tokens, heard.text))
    return found


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(PATIENCE):
        while not is_so():  # noqa: ASYNC110 - it changes behind everybody's back
            await asyncio.sleep(0.01)


def process_is_there(pid: int) -> bool:
    """Whether a process runs: one that nobody has waited for yet does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")


def wait_until_gone(pids: list[int]) -> None:
    """Fails if one of these processes stays."""
    give_up = time.monotonic() + PATIENCE
    while left := [pid for pid in pids if process_is_there(pid)]:
        assert time.monotonic() < give_up, left
        time.sleep(0.05)


def children() -> set[int]:
    """Processes that were started here and still are there."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(one) for one in (task / "children").read_text("ascii").split()}
        except OSError:
            continue  # the thread is gone
    return found


def open_descriptors() -> dict[int, str]:
    """Open descriptors of this process and what they are."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except OSError:
            continue  # the one that lists them
    return found


@asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """No descriptor, process or task more than before."""
    before = _things()
    yield
    await asyncio.sleep(0)
    after = _things()
    assert after == before, {kind: (after[kind] - before[kind]) for kind in after}


def _things() -> dict[str, Counter[object]]:
    """Vectors come in memory that has no name: it is gone with its descriptor."""
    return {
        "descriptors": Counter(map(_kind, open_descriptors().values())),
        "processes": Counter(children()),
        "tasks": Counter(str(one.get_coro()) for one in asyncio.all_tasks()),
    }


def _kind(target: str) -> str:
    return target.partition(":")[0]
