"""The only door to models: load, generate, ask, unload.

    generate(name, request) ──> an async iterator of events, the last of which is terminal

Which models stay loaded: as many as `max_models`, each until it was idle for `keep_alive_seconds`,
or for as long as `keep` said of it. One more takes the place of the longest idle; a busy one is
never taken away. Whether a model fits beside the others is judged before it is loaded (`plan`):
idle ones go for it, the longest idle first, and again if its worker finds that it does not fit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from samovar import models
from samovar.config import CacheConfig, RuntimeConfig, WorkerConfig
from samovar.errors import InvalidRequest, ModelNotFound, OutOfMemory, Overloaded, SamovarError
from samovar.ipc import messages as ipc
from samovar.ipc.requests import Request
from samovar.machine import available_bytes
from samovar.runtime.resident import Resident
from samovar.runtime.supervisor import Spec
from samovar.runtime.ticket import Ticket
from samovar.types import Event, Failed

_LOOK_SECONDS = 1.0  # between two looks for models that were idle long enough
_LEAST_SECONDS = 0.1  # the same, where models are hardly kept


class Runtime:
    """Models and their workers. For one event loop; `close` it, or use it as a context manager."""

    def __init__(self, config: RuntimeConfig | None = None) -> None:
        self._config = config or RuntimeConfig()
        self._residents: dict[str, Resident] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        """By name: what is being unloaded, and still has its memory."""
        self._loading = asyncio.Lock()
        self._is_closed = False
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Runtime:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- models -------------------------------------------------------------------------------

    async def load(
        self,
        name: str,
        path: str | None = None,
        worker: WorkerConfig | None = None,
        cache: CacheConfig | None = None,
    ) -> ipc.Ready:
        """Load a model under a name; nothing happens if it is there.

        `path` is a GGUF file or a built-in name; None: the name is. `cache` None: without one.
        Raises ModelNotFound, LoadFailed and its kinds, OutOfMemory with the numbers, Overloaded
        when every model that is loaded is busy.
        """
        ready = self.ready(name)
        if ready is not None:
            return ready
        async with self._loading:
            ready = self.ready(name)
            if ready is not None:
                return ready
            await self._drop(name)
            self._require_open()
            where = path or name
            built_in = models.path_of(where)
            spec = Spec(str(built_in or where), worker or WorkerConfig(), cache)
            await self._make_place()
            ready = await self._load(name, await self._fitting(spec))
        self._start_keeper(self._config.keep_alive_seconds)
        return ready

    def keep(self, name: str, seconds: float | None) -> None:
        """How long a loaded model may be idle before it goes; None: for ever. Until it is unloaded.

        Raises ModelNotFound.
        """
        self._resident(name).keep_seconds = seconds
        self._start_keeper(seconds)

    def ready(self, name: str) -> ipc.Ready | None:
        """What is known of a model that is there, or will be again without anybody's doing."""
        there = self._residents.get(name)
        if there is None or not there.is_up:
            return None
        there.touch()
        return there.described

    async def unload(self, name: str, seconds: float | None = None) -> None:
        """Free a model, after what runs has finished or the time is up. Raises ModelNotFound."""
        self._resident(name)
        await self._drop(name, seconds)

    def status(self) -> dict[str, dict[str, Any]]:
        """Every loaded model by name."""
        return {name: one.status() for name, one in self._residents.items()}

    async def close(self) -> None:
        """Unload everything, for good."""
        self._is_closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        names = {*self._residents, *self._leaving}
        await asyncio.gather(*(self._drop(name) for name in names))

    def _require_open(self) -> None:
        if self._is_closed:
            raise Overloaded("the runtime was closed; open another one")

    async def _load(self, name: str, spec: Spec) -> ipc.Ready:
        while True:
            self._require_open()  # again: making place takes time
            resident = Resident(spec, self._config)
            self._residents[name] = resident
            try:
                return await resident.load()
            except OutOfMemory:
                await self._drop(name, 0)
                idle = self._longest_idle()
                if idle is None or self._is_closed:
                    raise
                await self._drop(idle)
            except BaseException:
                await self._drop(name, 0)
                raise

    async def _make_place(self) -> None:
        while len(self._residents) + len(self._leaving) >= max(1, self._config.max_models):
            idle = self._longest_idle()
            if idle is not None:
                await self._drop(idle)
            elif self._leaving:
                await asyncio.wait(self._leaving.values(), return_when=asyncio.FIRST_COMPLETED)
            else:
                raise Overloaded(
                    f"{len(self._residents)} models are loaded and all of them are busy; try again"
                    " later, or allow more (max_models)"
                )

    async def _fitting(self, spec: Spec) -> Spec:
        """The model as it fits beside those that are loaded, of which idle ones may have to go.

        Raises OutOfMemory, with the numbers. One that would be alone is judged by its worker.
        """
        limit = self._config.memory_bytes
        if limit is None and not self._residents and not self._leaving:
            return spec
        # Here and not above: whoever loads one model needs none of it.
        from samovar.runtime.plan import best_need, least_need, refusal

        if self._leaving:
            await asyncio.wait(self._leaving.values())
        least = await asyncio.to_thread(least_need, spec.path, spec.worker)
        if least is None:  # its worker will say why
            return spec
        while (room := self._room()) is not None:
            if limit is not None:
                best = await asyncio.to_thread(best_need, spec.path, spec.worker, room)
                if best is not None:
                    return replace(spec, worker=best.config, need_bytes=best.total)
            elif least.total <= room:
                break
            idle = self._longest_idle()
            if idle is None:
                raise refusal(least, room, len(self._residents))
            await self._drop(idle)
        return spec

    def _room(self) -> int | None:
        """Bytes that one more model may take; None: the system does not say."""
        limit, there = self._config.memory_bytes, self._residents.values()
        if limit is not None:
            return limit - sum(one.spec.need_bytes for one in there)
        free = available_bytes()
        # The kernel counts weights that are mapped as free, but who evicts them reads them again.
        return None if free is None else free - sum(one.mapped_bytes for one in there)

    def _longest_idle(self) -> str | None:
        idle = {name: one for name, one in self._residents.items() if one.is_idle}
        return min(idle, key=lambda name: (idle[name].is_up, idle[name].last_used), default=None)

    async def _drop(self, name: str, seconds: float | None = None) -> None:
        """Unload a model, or wait until it is; that goes on if whoever waits is cancelled."""
        resident = self._residents.pop(name, None)
        if resident is not None:
            task = asyncio.get_running_loop().create_task(resident.unload(seconds))
            self._leaving[name] = task
            task.add_done_callback(lambda _: self._leaving.pop(name, None))
        leaving = self._leaving.get(name)
        if leaving is not None:
            await asyncio.shield(leaving)

    def _start_keeper(self, seconds: float | None) -> None:
        if self._keeper is None and seconds is not None and not self._is_closed:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        """Free what nobody has used for long."""
        usual = self._config.keep_alive_seconds
        pause = _LOOK_SECONDS if usual is None else min(_LOOK_SECONDS, max(usual, _LEAST_SECONDS))
        while True:
            await asyncio.sleep(pause)
            for name, one in list(self._residents.items()):
                is_there = self._residents.get(name) is one  # another may have its name by now
                is_over = one.is_idle and one.described is not None and one.remaining_seconds == 0
                if is_there and is_over:
                    await self._drop(name)

    def _resident(self, name: str) -> Resident:
        resident = self._residents.get(name)
        if resident is None:
            raise ModelNotFound(f"no model named {name} is loaded")
        return resident

    # ---- requests -----------------------------------------------------------------------------

    async def generate(
        self, name: str, request: Request, most_waiting: int | None = None
    ) -> AsyncGenerator[Event, None]:
        """Serve a request; the last event is terminal, and there is exactly one.

        What is wrong with the request is its Failed event. Leaving early cancels it, and so does
        leaving more than `most_waiting` events untaken. Raises ModelNotFound, and InvalidRequest
        for an id that is in use.
        """
        try:
            ticket = self.submit(name, request, most_waiting)
        except (ModelNotFound, InvalidRequest):
            raise
        except SamovarError as error:
            yield Failed(request.request_id, error.code, str(error), error.retryable)
            return
        with contextlib.closing(ticket):
            while not ticket.is_done:
                for event in await ticket.fetch():
                    yield event

    def submit(
        self,
        name: str,
        request: Request,
        most_waiting: int | None = None,
        *,
        is_paced: bool = False,
    ) -> Ticket:
        """The same for whoever takes events as they come, several at once; `close` it after use.

        `is_paced`: where many wait, each is told of news less often (see `pacing`). Raises as
        `generate`, and Overloaded and WorkerLost.
        """
        return self._resident(name).submit(request, most_waiting, is_paced=is_paced)

    def cancel(self, name: str, request_id: str) -> None:
        """End a request; its terminal event comes with the next step. Unknown ones are ignored."""
        resident = self._residents.get(name)
        if resident is not None:
            resident.cancel_id(request_id)

    async def ask(self, name: str, operation: str, /, **arguments: Any) -> Any:  # noqa: ANN401
        """Ask a model something that is answered once (see worker.operations)."""
        return await self._resident(name).ask(operation, **arguments)

    async def look(self, name: str, operation: str) -> Any:  # noqa: ANN401
        """Ask a loaded model without keeping it loaded. Raises ModelNotFound and WorkerLost."""
        return await self._resident(name).look(operation)
