"""One loaded model: its worker, the requests that are open on it, and what becomes of both.

When a worker dies, another one is started, and every open request goes on behind the tokens that
came out of it: its prompt comes back from the cache, its seed is known. A death that may have been
a request's fault makes suspects of those that the worker had. They are tried one at a time, and
nothing new is begun meanwhile; one that kills a second worker is refused, and the others go on.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import deque
from typing import Any

from samovar.config import RuntimeConfig
from samovar.errors import (
    InvalidRequest,
    Overloaded,
    SamovarError,
    WorkerLost,
    from_code,
)
from samovar.ipc import messages as ipc
from samovar.ipc.requests import Request, pack_request
from samovar.runtime.supervisor import Death, Phase, Spec, Supervisor
from samovar.runtime.ticket import Ticket, with_seed
from samovar.runtime.vectors import read_vectors
from samovar.types import Embedded

logger = logging.getLogger(__name__)

_MOST_OPEN = 4096  # requests: the worker's own queue is shorter, this one also bridges a restart


class Resident:
    """A model that is to be served. For one event loop."""

    def __init__(self, spec: Spec, config: RuntimeConfig) -> None:
        self.spec = spec
        self._config = config
        self._supervisor = Supervisor(spec, config, self._take, self._on_death)
        self._tickets: dict[str, Ticket] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self._deaths: deque[float] = deque()
        self._adapters: dict[str, str] = {}
        """Those that were loaded since the model was: a new worker gets them as well."""
        self._restart: asyncio.Task[None] | None = None
        self._error: SamovarError | None = None
        self._is_unloading = False
        self.last_used = asyncio.get_running_loop().time()
        self.num_restarts = 0

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not self._tickets and not self._calls

    @property
    def is_up(self) -> bool:
        """Whether it serves, or will when its worker is there again."""
        return self._error is None and not self._is_unloading

    @property
    def ready(self) -> ipc.Ready | None:
        """What the worker said of the model."""
        return self._supervisor.ready

    def status(self) -> dict[str, Any]:
        """Of people's interest: phase, process, progress, open requests, restarts."""
        ready = self._supervisor.ready
        return {
            "path": self.spec.path,
            "phase": self._supervisor.phase.value,
            "pid": self._supervisor.pid,
            "progress": self._supervisor.progress,
            "open_requests": len(self._tickets),
            "restarts": self.num_restarts,
            "description": None if ready is None else ready.description,
            "context_length": None if ready is None else ready.context_length,
        }

    # ---- loading ------------------------------------------------------------------------------

    async def load(self) -> ipc.Ready:
        """Start its worker for the first time. Raises what loading raises."""
        try:
            return await self._supervisor.start()
        except SamovarError as error:
            self._error = error
            raise

    async def unload(self, seconds: float | None = None) -> None:
        """Let what runs finish within a time, save, and free everything."""
        self._is_unloading = True
        if self._restart is not None:
            self._restart.cancel()
        await self._supervisor.stop(self._config.stop_seconds if seconds is None else seconds)
        self._fail_all(Overloaded("the model was unloaded; try again"))

    # ---- requests -----------------------------------------------------------------------------

    def submit(self, request: Request) -> Ticket:
        """Take a request. Raises InvalidRequest for an id in use, Overloaded, WorkerLost."""
        if self._error is not None:
            raise self._error
        if self._is_unloading or len(self._tickets) >= _MOST_OPEN:
            raise Overloaded("the model takes no more requests now; try again later")
        if request.request_id in self._tickets:
            raise InvalidRequest("another request with this id is not finished yet")
        loop = asyncio.get_running_loop()
        ticket = Ticket(with_seed(request), loop.time())
        self._tickets[request.request_id] = ticket
        self.last_used = loop.time()
        self._send_what_may_go()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a request; its terminal event comes with the next step."""
        if ticket.is_over:
            return
        if ticket.is_sent and self._supervisor.phase is Phase.READY:
            self._supervisor.send(ipc.Cancel(ticket.request.request_id))
        else:
            ticket.end_cancelled()
            self._close(ticket)

    def cancel_id(self, request_id: str) -> None:
        """End the request of an id, if there is one."""
        ticket = self._tickets.get(request_id)
        if ticket is not None:
            self.cancel(ticket)

    async def ask(self, operation: str, /, **arguments: Any) -> Any:  # noqa: ANN401
        """Ask the worker something. Raises what it answers, and WorkerLost if it dies of it."""
        if self._error is not None:
            raise self._error
        if self._restart is not None:
            await asyncio.wait([self._restart])
        answer = await self._ask(operation, arguments)
        if operation == "load_adapter":
            self._adapters[arguments["name"]] = arguments["path"]
        elif operation == "unload_adapter":
            self._adapters.pop(arguments["name"], None)
        return answer

    async def _ask(self, operation: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
        if self._supervisor.phase is not Phase.READY:
            raise WorkerLost("the model's process is not there; try again")
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        self.last_used = asyncio.get_running_loop().time()
        try:
            self._supervisor.send(ipc.Call(number, operation, arguments))
            return await future
        finally:
            self._calls.pop(number, None)

    def _send_what_may_go(self) -> None:
        """Hand requests to the worker: all of them, or while some are suspects one of those."""
        if self._supervisor.phase is not Phase.READY:
            return
        suspects = [one for one in self._tickets.values() if one.is_suspect]
        if any(one.is_sent for one in suspects):
            return
        waiting = suspects[:1] or [one for one in self._tickets.values() if not one.is_sent]
        now = asyncio.get_running_loop().time()
        for ticket in waiting:
            try:
                self._supervisor.send(ipc.Submit(*pack_request(ticket.again(now))))
            except SamovarError as error:
                ticket.fail(error.code, str(error), retryable=error.retryable)
                self._close(ticket)
            else:
                ticket.is_sent = True

    def _close(self, ticket: Ticket) -> None:
        self._tickets.pop(ticket.request.request_id, None)
        self.last_used = asyncio.get_running_loop().time()

    # ---- reports ------------------------------------------------------------------------------

    def _take(self, report: ipc.Report, fds: list[int]) -> None:
        match report:
            case ipc.Output(events):
                for event in events:
                    self._hear(event.request_id, event)
            case ipc.Vectors(request_id, rows, width, usage):
                vectors = read_vectors(os.dup(fds[0]), rows, width)
                self._hear(request_id, Embedded(request_id, vectors, usage))
            case ipc.Answer(call_id=number):
                self._answer(number, report)
            case _:
                return

    def _hear(self, request_id: str, event: Any) -> None:  # noqa: ANN401 - any event
        ticket = self._tickets.get(request_id)
        if ticket is None:
            return
        was_suspect = ticket.is_suspect
        ticket.take(event)
        if ticket.is_over:
            self._close(ticket)
        if was_suspect and not ticket.is_suspect:
            self._send_what_may_go()

    def _answer(self, number: int, answer: ipc.Answer) -> None:
        future = self._calls.get(number)
        if future is None or future.done():
            return
        if answer.code is None:
            future.set_result(answer.value)
        else:
            future.set_exception(from_code(answer.code, answer.message))

    # ---- deaths -------------------------------------------------------------------------------

    def _on_death(self, death: Death) -> None:
        for future in self._calls.values():
            if not future.done():
                future.set_exception(WorkerLost(f"the model's process {death}; try again"))
        if self._is_unloading or self._error is not None or self._supervisor.ready is None:
            return  # it was to end, or never was there: whoever loads it is told
        self._blame(death)
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._deaths.append(now)
        while self._deaths[0] < now - self._config.restart_window:
            self._deaths.popleft()
        if len(self._deaths) > self._config.restarts:
            window = self._config.restart_window
            self._give_up(
                WorkerLost(
                    f"the model's process died {len(self._deaths)} times within {window:g} s and"
                    " is not started again; unload the model and load it anew"
                )
            )
            return
        self._restart = loop.create_task(self._start_again())

    def _blame(self, death: Death) -> None:
        """Who may have done it, and who did it twice."""
        sent = [one for one in self._tickets.values() if one.is_sent]
        tried = [one for one in sent if one.is_suspect]
        for ticket in sent:
            ticket.is_sent = False
            ticket.died_at = ticket.num_generated
            if not ticket.can_go_on:
                ticket.fail(
                    "worker_lost", "the model's process died with its session", retryable=True
                )
                self._close(ticket)
        if not death.is_own_fault:
            return
        for ticket in tried or sent:  # one that is tried is tried alone
            ticket.crashes += 1
            if ticket.crashes > 1 and not ticket.is_over:
                logger.warning(
                    "request %s has killed two workers and is refused", ticket.request.request_id
                )
                ticket.fail(
                    "poisonous_request",
                    "this request killed two processes of the model; it is not tried again",
                    retryable=False,
                )
                self._close(ticket)

    async def _start_again(self) -> None:
        """After a pause, the longer the more often."""
        config = self._config
        pause = min(config.first_backoff * 2 ** (len(self._deaths) - 1), config.most_backoff)
        await asyncio.sleep(pause)
        try:
            await self._supervisor.start()
            for name, path in self._adapters.items():
                await self._ask("load_adapter", {"name": name, "path": path})
        except WorkerLost:
            return  # it died again, and that is looked after already
        except SamovarError as error:
            self._give_up(error)
            return
        finally:
            if self._restart is asyncio.current_task():
                self._restart = None
        self.num_restarts += 1
        self._send_what_may_go()

    def _give_up(self, error: SamovarError) -> None:
        self._error = error
        self._fail_all(error)

    def _fail_all(self, error: SamovarError) -> None:
        for ticket in list(self._tickets.values()):
            ticket.fail(error.code, str(error), retryable=error.retryable)
            self._close(ticket)
