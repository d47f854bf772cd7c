"""What Ollama's routes have in common: names, and how long a model stays after a request."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from samovar.api.ollama.answers import Watch
from samovar.api.ollama.keeping import Keep
from samovar.api.ollama.models import LATEST
from samovar.errors import ModelNotFound, SamovarError
from samovar.ipc.messages import Ready
from samovar.ipc.requests import Request
from samovar.server.asking import caller, served
from samovar.server.caller import Caller
from samovar.server.generation import Generation
from samovar.server.served import Served
from samovar.types import Burst, Finished

Models = Annotated[Served, Depends(served)]
Asker = Annotated[Caller, Depends(caller)]

AtEnd = Callable[[], Awaitable[None]]


def resolved(models: Served, name: str) -> str:
    """The name of a model, which may be asked for with `:latest` behind. Raises ModelNotFound."""
    if name not in models.names():
        name = name.removesuffix(LATEST)
    return models.model(name).name


@dataclass(frozen=True, slots=True)
class Running:
    """A request for a model, which is loaded for it and kept after it."""

    models: Served
    name: str
    keep: Keep | None
    watch: Watch

    def events(
        self, make: Callable[[Ready], Awaitable[Request]], at_end: AtEnd | None = None
    ) -> AsyncIterator[Burst]:
        """The events of the request that `make` makes once the model is there.

        `at_end` is awaited before the last event goes out; what it raises of ours is not told.
        Raises what loading and making raise.
        """

        async def made() -> Request:
            return await make(await self.load())

        generation = self.models.generate(self.name, made, self.leave)
        return generation if at_end is None else _ended(generation, at_end)

    async def load(self) -> Ready:
        """Have the model there. Raises what loading raises."""
        ready = await self.models.ready(self.name)
        self.watch.loaded()
        return ready

    def leave(self) -> None:
        """Say how long it stays, if the request said so."""
        if self.keep is not None:
            with contextlib.suppress(ModelNotFound):  # it is gone already
                self.models.runtime.keep(self.name, self.keep.seconds)

    async def only_load(self) -> str:
        """Have the model there, or gone; Ollama's word for what was done. Raises as `load`."""
        if self.keep is not None and self.keep.is_leaving:
            await self._unload()
            return "unload"
        await self.load()
        self.leave()
        return "load"

    async def _unload(self) -> None:
        """Now if nobody uses it, else when that is over."""
        status = self.models.runtime.status().get(self.name)
        if status is None:
            return
        self.leave()
        if not status["open_requests"]:
            with contextlib.suppress(ModelNotFound):
                await self.models.runtime.unload(self.name)


async def _ended(generation: Generation, at_end: AtEnd) -> AsyncIterator[Burst]:
    async with aclosing(generation) as bursts:
        async for burst in bursts:
            if isinstance(burst[-1], Finished):
                with contextlib.suppress(SamovarError):
                    await at_end()
            yield burst
