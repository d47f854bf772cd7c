"""The models that a server has: their names, what is known of them, and the way to them."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from samovar import models
from samovar.api.facts import ModelFacts
from samovar.config import CacheConfig, ServerConfig, WorkerConfig
from samovar.errors import ModelNotFound, Overloaded
from samovar.ipc.messages import Ready
from samovar.ipc.requests import Request
from samovar.runtime.runtime import Runtime
from samovar.runtime.ticket import Ticket
from samovar.server.current import current
from samovar.server.facts import FactsReader
from samovar.server.generation import Generation
from samovar.server.loading import Loading
from samovar.server.observing import Observers, Watch
from samovar.types import GenerateRequest, VerifyRequest

MAX_WAITING = 8192
"""Events that wait for a client which takes none: some megabytes. Then its request is ended."""
_TRIES = 3  # to ask a model that somebody has unloaded since it was loaded
_ADAPTED = (GenerateRequest, VerifyRequest)

Making = Callable[[], Awaitable[Request]]
"""Makes a request. Raises what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A name under which a file can be asked for."""

    name: str
    path: str
    """A GGUF file, or the name of a built-in model."""
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    cache: CacheConfig | None = field(default_factory=CacheConfig)
    adapters: tuple[tuple[str, float], ...] = ()
    """Of those that are loaded with it, what requests use that ask for none."""

    @property
    def file(self) -> Path:
        """The file."""
        return Path(models.path_of(self.path) or self.path)


class Served:
    """What routes ask: models by name, loaded when they are needed."""

    def __init__(
        self,
        runtime: Runtime,
        served: Sequence[ServedModel],
        observers: Observers | None = None,
        config: ServerConfig | None = None,
    ) -> None:
        self.runtime = runtime
        self._observers = observers or Observers()
        config = config or ServerConfig()
        self._volatile = config.volatile
        self._unusual = _unusual(config)
        """What conversations that say nothing get, where it is not what they get anyway."""
        self._loading: dict[str, Loading] = {}
        self._models: Mapping[str, ServedModel] = {one.name: one for one in served}
        self._numbers = itertools.count(1)
        self._facts = FactsReader()
        self.started = int(time.clock_gettime(time.CLOCK_REALTIME))

    @property
    def volatile(self) -> tuple[str, ...]:
        """The rules for conversations of which nothing else was said."""
        return self._volatile

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

    async def metadata(self, name: str, *, is_whole: bool = False) -> Mapping[str, Any]:
        """The metadata of its file, None for long arrays unless whole. Raises as `facts`."""
        return await self._facts.metadata(self.model(name).file, is_whole=is_whole)

    def new_id(self, prefix: str) -> str:
        """An id that no other request of this process has, and nobody can guess."""
        return f"{prefix}{next(self._numbers):x}{secrets.token_hex(12)}"

    async def ready(self, name: str) -> Ready:
        """Load a model unless it is there. Raises ModelNotFound and what loading raises.

        Everybody who waits for a model waits for the same loading, which ends with the last of
        them.
        """
        one = self.model(name)
        there = self.runtime.ready(name)
        if there is not None:
            return there
        loading = self._loading.get(name)
        if loading is None:
            load = self.runtime.load(name, one.path, one.worker, one.cache)
            loading = self._loading[name] = Loading(load, partial(self._forget, name))
        return await loading.wait()

    def _forget(self, name: str, loading: Loading) -> None:
        """Nobody joins a loading that has ended, or is about to."""
        if self._loading.get(name) is loading:
            del self._loading[name]

    def generate(
        self,
        name: str,
        request: Request | Making,
        on_closed: Callable[[], None] | None = None,
    ) -> Generation:
        """The events of a request, or of one that is made when they are first asked for."""
        submit, watch = partial(self._submitted, name, request), partial(self._watch, name)
        return Generation(submit, watch, on_closed)

    def _watch(self, name: str) -> Watch:
        return self._observers.watch(name, current())

    async def _submitted(self, name: str, request: Request | Making) -> Ticket:
        made = await request() if callable(request) else request
        asked = self._settled(self._with_adapters(name, made))
        for _ in range(_TRIES):
            await self.ready(name)
            try:
                return self.runtime.submit(name, asked, MAX_WAITING, is_paced=True)
            except ModelNotFound:
                continue  # another model took its place just now; nothing was begun
        raise Overloaded("models come and go faster than they can be asked; try again later")

    def _with_adapters(self, name: str, request: Request) -> Request:
        adapters = self.model(name).adapters
        if not adapters or not isinstance(request, _ADAPTED) or request.adapters:
            return request
        return replace(request, adapters=adapters)

    def _settled(self, request: Request) -> Request:
        """With what the configuration says of conversations, where the request does not."""
        if not self._unusual or not isinstance(request, GenerateRequest) or request.chat is None:
            return request
        chat = request.chat
        found = self._of_conversations({"replays": chat.replays, "volatile": chat.volatile})
        return replace(request, chat=replace(chat, **found))

    def _of_conversations(self, said: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in self._unusual.items() if said.get(name) is None}

    async def ask(self, name: str, operation: str, /, **arguments: Any) -> Any:  # noqa: ANN401
        """Ask a model's process something (see worker.operations)."""
        if operation == "render":
            arguments |= self._of_conversations(arguments)
        await self.ready(name)
        return await self.runtime.ask(name, operation, **arguments)


def _unusual(config: ServerConfig) -> dict[str, Any]:
    found = {"replays": config.replays, "volatile": config.volatile}
    usual = ServerConfig()
    return {name: value for name, value in found.items() if value != getattr(usual, name)}
