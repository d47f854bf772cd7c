"""The models that a server has: their names, what is known of them, and the way to them."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samovar import models
from samovar.api.facts import ModelFacts
from samovar.config import CacheConfig, WorkerConfig
from samovar.errors import ModelNotFound
from samovar.ipc.messages import Ready
from samovar.ipc.requests import Request
from samovar.runtime.runtime import Runtime
from samovar.server.facts import FactsReader
from samovar.types import Event


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A name under which a file can be asked for."""

    name: str
    path: str
    """A GGUF file, or the name of a built-in model."""
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    cache: CacheConfig | None = field(default_factory=CacheConfig)

    @property
    def file(self) -> Path:
        """The file."""
        return Path(models.path_of(self.path) or self.path)


class Served:
    """What routes ask: models by name, loaded when they are needed."""

    def __init__(self, runtime: Runtime, served: Sequence[ServedModel]) -> None:
        self.runtime = runtime
        self._models: Mapping[str, ServedModel] = {one.name: one for one in served}
        self._numbers = itertools.count(1)
        self._facts = FactsReader()
        self.started = int(time.clock_gettime(time.CLOCK_REALTIME))

    def names(self) -> list[str]:
        """Of every model, loaded or not."""
        return list(self._models)

    def model(self, name: str) -> ServedModel:
        """Raises ModelNotFound, naming those there are."""
        found = self._models.get(name)
        if found is None:
            raise ModelNotFound(f"there is no such model; there are: {', '.join(self._models)}")
        return found

    async def facts(self, name: str) -> ModelFacts:
        """What the model's file says, loaded or not. Raises ModelNotFound for an unknown name."""
        return await self._facts.facts(name, self.model(name).file)

    async def metadata(self, name: str) -> Mapping[str, Any]:
        """The metadata of its file, None for long arrays. Raises as `facts`."""
        return await self._facts.metadata(self.model(name).file)

    def new_id(self, prefix: str) -> str:
        """An id that no other request of this process has, and nobody can guess."""
        return f"{prefix}{next(self._numbers):x}{secrets.token_hex(12)}"

    async def ready(self, name: str) -> Ready:
        """Load a model unless it is there. Raises ModelNotFound and what loading raises."""
        one = self.model(name)
        return await self.runtime.load(name, one.path, one.worker, one.cache)

    async def generate(self, name: str, request: Request) -> AsyncIterator[Event]:
        """The events of a request; the last one is terminal. Raises what `ready` raises."""
        await self.ready(name)
        async for event in self.runtime.generate(name, request):
            yield event

    async def ask(self, name: str, operation: str, /, **arguments: Any) -> Any:  # noqa: ANN401
        """Ask a model's process something (see worker.operations)."""
        await self.ready(name)
        return await self.runtime.ask(name, operation, **arguments)
