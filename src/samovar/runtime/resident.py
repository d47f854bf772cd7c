"""One loaded model: its worker, the requests that are open on it, and what becomes of both.

When a worker dies, another one is started, and every open request goes on behind the tokens that
came out of it: its prompt comes back from the cache, its seed is known. A death that may have been
a request's fault makes suspects of those that the worker had (see Death). They are tried one after
the other, and nothing new is begun before each has got past where the worker died. One that kills
another worker when it is alone there is refused, and the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import replace
from typing import Any

from samovar.config import RuntimeConfig
from samovar.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    SamovarError,
    WorkerLost,
)
from samovar.ipc import messages as ipc
from samovar.ipc.requests import Request, pack_request
from samovar.runtime.calls import Calls
from samovar.runtime.deaths import Deaths
from samovar.runtime.pacing import Pacing
from samovar.runtime.supervisor import Death, Phase, Spec, Supervisor
from samovar.runtime.ticket import Ticket, with_seed
from samovar.types import Embedded, Failed

logger = logging.getLogger(__name__)

_MOST_OPEN = 4096  # requests: the worker's own queue is shorter, this one also bridges a restart
_CULPRIT = 2.0  # workers that died of a request, before it is refused
_COMING_SECONDS = 0.25  # who asked for a model may need so long until the request is there
_TRIED = 1.5  # of one that was tried beside others, which had been cleared: no proof


def _embedded(report: ipc.Vectors, fds: list[int]) -> Embedded | Failed:
    """The end of an EmbedRequest."""
    # Here and not above: it loads numpy, which takes longer than all else that a command needs.
    from samovar.runtime.vectors import read_vectors

    try:
        vectors = read_vectors(os.dup(fds[0]), report.rows, report.width)
    except (OSError, IndexError):
        text = "the vectors did not come over from the model's process; try again"
        return Failed(report.request_id, "internal_error", text, retryable=True)
    return Embedded(report.request_id, vectors, report.usage)


class Resident:
    """A model that is to be served. For one event loop."""

    def __init__(self, spec: Spec, config: RuntimeConfig) -> None:
        self.spec = spec
        self._config = config
        self._supervisor = Supervisor(spec, config, self._take, self._on_death)
        self._tickets: dict[str, Ticket] = {}
        self._calls = Calls()
        self._deaths = Deaths(config)
        self._pacing = Pacing()
        self._adapters: dict[str, str] = dict(spec.worker.adapters)
        """Those that are loaded: a new worker gets them as well."""
        self._restart: asyncio.Task[None] | None = None
        self._error: SamovarError | None = None
        self._is_unloading = False
        self.described: ipc.Ready | None = None
        """What its first worker said of the model."""
        self.last_used = asyncio.get_running_loop().time()
        self.keep_seconds = config.keep_alive_seconds
        """How long it may be idle before it goes; None: for ever."""
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
    def mapped_bytes(self) -> int:
        """Weights that it needs in the page cache."""
        return 0 if self.described is None else self.described.mapped_bytes

    @property
    def remaining_seconds(self) -> float | None:
        """How long it stays if nobody comes, 0 when it is about to go; None: for ever."""
        if self.keep_seconds is None:
            return None
        seconds = max(self.keep_seconds, _COMING_SECONDS)
        is_counted = self.is_idle and self.described is not None
        idle = asyncio.get_running_loop().time() - self.last_used if is_counted else 0.0
        return max(0.0, seconds - idle)

    @property
    def is_ready(self) -> bool:
        """Whether a worker serves it now."""
        return self._supervisor.phase is Phase.READY and self._restart is None

    def status(self) -> dict[str, Any]:
        """Of people's interest: phase, process, progress, open requests, restarts."""
        said = self.described
        return {
            "path": self.spec.path,
            "phase": self._supervisor.phase.value,
            "pid": self._supervisor.pid,
            "progress": self._supervisor.progress,
            "open_requests": len(self._tickets),
            "restarts": self.num_restarts,
            "remaining_seconds": self.remaining_seconds,
            "description": None if said is None else said.description,
            "context_length": None if said is None else said.context_length,
        }

    # ---- loading ------------------------------------------------------------------------------

    async def load(self) -> ipc.Ready:
        """Start its worker for the first time. Raises what loading raises."""
        try:
            self.described = await self._supervisor.start()
        except SamovarError as error:
            self._error = error
            raise
        self.touch()
        return self.described

    def touch(self) -> None:
        """It is wanted now: what it may be idle counts from here."""
        self.last_used = asyncio.get_running_loop().time()

    async def unload(self, seconds: float | None = None) -> None:
        """Let what runs finish within a time, save, and free everything."""
        self._is_unloading = True
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.wait([self._restart])
        error = Overloaded("the model was unloaded; try again")
        self._fail_all(error, [one for one in self._tickets.values() if not one.is_sent])
        await self._supervisor.stop(self._config.stop_seconds if seconds is None else seconds)
        self._fail_all(error, list(self._tickets.values()))

    # ---- requests -----------------------------------------------------------------------------

    def submit(
        self, request: Request, most_waiting: int | None = None, *, is_paced: bool = False
    ) -> Ticket:
        """Take a request. Raises InvalidRequest for an id in use, Overloaded, WorkerLost."""
        self._require_up()
        if len(self._tickets) >= _MOST_OPEN:
            raise Overloaded("the model takes no more requests now; try again later")
        if request.request_id in self._tickets:
            raise InvalidRequest("another request with this id is not finished yet")
        loop = asyncio.get_running_loop()
        ticket = Ticket(with_seed(request), loop.time(), self.cancel, most_waiting, is_paced)
        self._tickets[request.request_id] = ticket
        if request.timeout_seconds is not None:
            ticket.timer = loop.call_later(request.timeout_seconds, self._expire, ticket)
        self.touch()
        self._send_what_may_go()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a request; its terminal event comes with the next step."""
        if ticket.is_over:
            return
        if not ticket.is_sent:
            self._end_cancelled(ticket)
            return
        ticket.is_cancelled = True
        with contextlib.suppress(Overloaded):  # it is deaf, and will be found out
            self._supervisor.send(ipc.Cancel(ticket.request.request_id))

    def cancel_id(self, request_id: str) -> None:
        """End the request of an id, if there is one."""
        ticket = self._tickets.get(request_id)
        if ticket is not None:
            self.cancel(ticket)

    async def ask(self, operation: str, /, **arguments: Any) -> Any:  # noqa: ANN401
        """Ask the worker something. Raises what it answers, and WorkerLost if it dies of it."""
        self._require_up()
        if self._restart is not None:
            await asyncio.wait([self._restart])
            self._require_up()
        answer = await self._ask(operation, arguments)
        if operation == "load_adapter":
            self._adapters[arguments["name"]] = arguments["path"]
        elif operation == "unload_adapter":
            self._adapters.pop(arguments["name"], None)
        return answer

    async def look(self, operation: str) -> Any:  # noqa: ANN401
        """Ask without keeping it loaded: for those who watch. Raises WorkerLost, at once."""
        return await self._ask(operation, {}, is_use=False)

    def _require_up(self) -> None:
        if self._error is not None:  # a new one each time: they collect their traces
            raise type(self._error)(str(self._error))
        if self._is_unloading:
            raise Overloaded("the model is being unloaded; try again")

    async def _ask(
        self,
        operation: str,
        arguments: dict[str, Any],
        *,
        is_use: bool = True,
    ) -> Any:  # noqa: ANN401
        if self._supervisor.phase is not Phase.READY:
            raise WorkerLost("the model's process is not there; try again")
        if is_use:
            self.touch()
        return await self._calls.ask(self._supervisor.send, operation, arguments)

    # ---- what the worker is given -------------------------------------------------------------

    def _send_what_may_go(self) -> None:
        """Hand requests to the worker: all of them, or while some are suspects one of those."""
        if not self.is_ready:
            return
        for ticket in self._what_may_go():
            self._send(ticket)

    def _what_may_go(self) -> list[Ticket]:
        suspects = [one for one in self._tickets.values() if one.is_suspect]
        if suspects:
            is_tried = any(one.is_sent for one in suspects)
            return [] if is_tried else [max(suspects, key=Ticket.suspicion)]
        waiting = [one for one in self._tickets.values() if not one.is_sent]
        known = [one for one in waiting if one.was_sent]
        if not known:
            return waiting
        # A worker took them once, and one that starts has nobody seated: it would refuse the last.
        room = max(1, self.spec.worker.max_waiting) - (len(self._tickets) - len(waiting))
        return waiting if len(known) <= room else known[: max(0, room)]

    def _send(self, ticket: Ticket) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._supervisor.send(ipc.Submit(*pack_request(ticket.again(loop.time()))))
        except SamovarError as error:
            self._fail(ticket, error)
            loop.call_soon(self._send_what_may_go)
        else:
            ticket.is_sent = ticket.was_sent = True

    def _end_cancelled(self, ticket: Ticket) -> None:
        ticket.end_cancelled()
        self._close(ticket)

    def _expire(self, ticket: Ticket) -> None:
        """Its time is over; where a worker has it, that one says so."""
        if not ticket.is_sent and not ticket.is_over:
            limit = ticket.request.timeout_seconds
            self._fail(ticket, DeadlineExceeded(f"not finished within {limit:g} s; it was stopped"))

    def _fail(self, ticket: Ticket, error: SamovarError) -> None:
        ticket.fail(error.code, str(error), retryable=error.retryable)
        self._close(ticket)

    def _close(self, ticket: Ticket) -> None:
        self._tickets.pop(ticket.request.request_id, None)
        if ticket.timer is not None:
            ticket.timer.cancel()
        self.touch()

    # ---- reports ------------------------------------------------------------------------------

    def _take(self, report: ipc.Report, fds: list[int]) -> None:
        match report:
            case ipc.Output(events):
                for event in events:
                    self._hear(event.request_id, event)
            case ipc.Vectors():
                self._hear(report.request_id, _embedded(report, fds))
            case ipc.Answer():
                self._calls.take(report)
            case _:
                return

    def _hear(self, request_id: str, event: Any) -> None:  # noqa: ANN401 - any event
        ticket = self._tickets.get(request_id)
        if ticket is None:
            return
        is_settled = ticket.take(event)
        self._pacing.tell(ticket, len(self._tickets))
        if is_settled:
            if ticket.is_over:
                self._close(ticket)
            self._send_what_may_go()
        elif ticket.is_neglected:
            self.cancel(ticket)
            self._fail(ticket, Overloaded("nobody took what came of the request; it was ended"))

    # ---- deaths -------------------------------------------------------------------------------

    def _on_death(self, death: Death) -> None:
        self._calls.lose(lambda: WorkerLost(f"the model's process {death}; try again"))
        if self._is_unloading or self._error is not None or self._supervisor.ready is None:
            return  # it was to end, or it was not there yet: whoever starts it is told
        self._blame(death)
        if self._may_start_again():
            self._restart = asyncio.get_running_loop().create_task(self._start_again())

    def _blame(self, death: Death) -> None:
        """Who may have done it, and who did it twice."""
        had = [one for one in self._tickets.values() if one.is_sent]
        for ticket in had:
            most = _CULPRIT if len(had) == 1 else _TRIED if ticket.is_suspect else 1.0
            ticket.is_sent = False
            ticket.died_at = ticket.num_generated
            ticket.blame = min(ticket.blame + death.blame, most)
        for ticket in list(self._tickets.values()):
            self._end_if_it_must(ticket, death)

    def _end_if_it_must(self, ticket: Ticket, death: Death) -> None:
        """What cannot go on after a death, or must not."""
        if ticket.is_cancelled:
            self._end_cancelled(ticket)
        elif ticket.blame >= _CULPRIT:
            logger.warning("request %s killed two workers: refused", ticket.request.request_id)
            ticket.fail(
                "poisonous_request",
                f"the model's process {death} again with this request; it is not tried again",
                retryable=False,
            )
            self._close(ticket)
        elif not ticket.can_go_on:
            self._fail(ticket, WorkerLost(f"the model's process {death}, and its session is gone"))
        elif ticket.is_late(asyncio.get_running_loop().time()):
            self._expire(ticket)

    def _may_start_again(self) -> bool:
        """Count a death; too many within a time are the end of it."""
        if self._deaths.count(asyncio.get_running_loop().time()):
            return True
        window = self._config.restart_window
        self._give_up(
            WorkerLost(
                f"the model's process died {len(self._deaths)} times within {window:g} s and is not"
                " started again; unload the model and load it anew"
            )
        )
        return False

    async def _start_again(self) -> None:
        """After a pause, the longer the more often; as a whole it is the task `_restart`."""
        try:
            while True:
                await asyncio.sleep(self._deaths.pause)
                error = await self._start_once()
                if error is None:
                    break
                if self._supervisor.is_refused:
                    self._give_up(error)
                    return
                if not self._may_start_again():
                    return
            await self._load_adapters()
        except WorkerLost:
            return  # it died of that, and is started again already
        finally:
            if self._restart is asyncio.current_task():
                self._restart = None
        self.num_restarts += 1
        self._send_what_may_go()

    async def _start_once(self) -> SamovarError | None:
        """What went wrong; None: the worker is there."""
        worker = replace(self.spec.worker, adapters=())
        self._supervisor.spec = replace(self.spec, worker=worker)
        try:
            await self._supervisor.start()
        except SamovarError as error:
            return error
        return None

    async def _load_adapters(self) -> None:
        """One that is no longer there is missed by those who ask for it, not by everybody."""
        for name, path in list(self._adapters.items()):
            try:
                await self._ask("load_adapter", {"name": name, "path": path})
            except WorkerLost:
                raise
            except SamovarError as error:
                logger.warning("the adapter %s is not loaded again: %s", name, error)
                del self._adapters[name]

    def _give_up(self, error: SamovarError) -> None:
        self._error = error
        self._fail_all(error, list(self._tickets.values()))

    def _fail_all(self, error: SamovarError, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            self._fail(ticket, error)
