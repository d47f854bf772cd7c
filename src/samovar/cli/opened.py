"""A model for one command: loaded in a process of its own, asked, unloaded.

What the command is asked to do runs on an event loop of its own, which ends with it. Ctrl-C ends
the request that runs, and the command reports what there is; a second one ends the command.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from samovar.cli.interrupt import act_on_interrupt, leave
from samovar.config import CacheConfig, RuntimeConfig, WorkerConfig
from samovar.errors import InvalidRequest
from samovar.ipc.requests import Request
from samovar.runtime.runtime import Runtime
from samovar.types import Event

_NAME = "model"  # under which a command's only model is loaded

_T = TypeVar("_T")


class Opened:
    """A loaded model and what runs on it: one request at a time."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.is_cancelled = False
        """Somebody has pressed Ctrl-C while a request ran."""

    async def ask(self, operation: str, /, **arguments: Any) -> Any:  # noqa: ANN401
        """Ask the model's process something (see worker.operations)."""
        return await self._runtime.ask(_NAME, operation, **arguments)

    async def events(self, request: Request) -> AsyncIterator[Event]:
        """The events of a request; Ctrl-C cancels it."""
        with self._cancellable(request.request_id):
            async for event in self._runtime.generate(_NAME, request):
                yield event

    @contextmanager
    def _cancellable(self, request_id: str) -> Iterator[None]:
        """A second Ctrl-C ends the process: the first may wait for a reader that takes nothing."""
        loop = asyncio.get_running_loop()

        def cancel() -> None:
            if self.is_cancelled:
                leave()
            self.is_cancelled = True
            loop.call_soon_threadsafe(self._runtime.cancel, _NAME, request_id)

        undo = act_on_interrupt(cancel)
        try:
            yield
        finally:
            undo()


@asynccontextmanager
async def opened(
    path: str, worker: WorkerConfig, cache: CacheConfig | None
) -> AsyncIterator[Opened]:
    """A model in a process of its own; what it saves is durable when this ends."""
    async with Runtime(RuntimeConfig(keep_alive_seconds=None)) as runtime:
        await runtime.load(_NAME, path, worker, cache)
        yield Opened(runtime)


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Do it, on an event loop of its own."""
    return asyncio.run(work)


def worker_config(
    *, ctx_size: int, threads: int, gpu_layers: int, adapters: Sequence[tuple[str, float]] = ()
) -> WorkerConfig:
    """How a command has its model loaded. Raises InvalidRequest.

    One sequence: that is what a command needs, and all the memory is its own.
    """
    if ctx_size < 0 or threads < 0:
        raise InvalidRequest("--ctx-size and --threads must be positive")
    return WorkerConfig(
        context_length=ctx_size,
        num_sequences=1,
        kv_layout="lanes",
        threads=threads,
        gpu_layers=gpu_layers,
        adapters=tuple((str(i), path) for i, (path, _) in enumerate(adapters)),
    )


def scaled(adapters: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """The adapters of a request, by the names that `worker_config` gives them."""
    return tuple((str(i), scale) for i, (_, scale) in enumerate(adapters))
