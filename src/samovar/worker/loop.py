"""The engine's thread: what has come in, a step, what goes out.

    inbox (bounded) ──> [ take in, step ] ──> outbox (bounded)

Nothing here touches a socket. Whoever puts something in decides what a full inbox means; a full
outbox holds the engine up, because answers must not be lost: whoever reads is alive, or gone, and
then this ends.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable

from samovar.cache.store import BlockStore
from samovar.chat.turn import PLAIN, TurnForm
from samovar.engine.engine import Engine
from samovar.engine.failure import failure
from samovar.errors import Overloaded, SamovarError
from samovar.ipc.requests import Request
from samovar.types import Event

logger = logging.getLogger(__name__)

INBOX = 4096  # requests and questions; an engine refuses beyond max_waiting long before
_IDLE_SECONDS = 1.0  # how often the cache is looked after while nothing runs

Work = Callable[[], None]


class EngineLoop:
    """Drives one engine until it is told to end.

    `say` takes the events of a step. Everything else may be called from other threads.
    """

    def __init__(
        self,
        engine: Engine,
        store: BlockStore | None,
        say: Callable[[Iterable[Event]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._store = store
        self._say = say
        self._now = clock
        self._inbox: queue.Queue[Work] = queue.Queue(INBOX)
        self._step_began: float | None = None
        self._deadline: float | None = None
        self._is_aborted = threading.Event()

    # ---- from other threads -------------------------------------------------------------------

    @property
    def step_seconds(self) -> float:
        """How long the present step has been running; 0 between steps."""
        began = self._step_began
        return 0.0 if began is None else self._now() - began

    @property
    def counts(self) -> tuple[int, int]:
        """Running and waiting sequences: about, since they change meanwhile."""
        scheduler = self._engine.scheduler
        return len(scheduler.seated), len(scheduler.waiting)

    def submit(self, request: Request, form: TurnForm = PLAIN) -> None:
        """Take a request in, or say that there is no room."""
        try:
            self._inbox.put_nowait(lambda: self._submit(request, form))
        except queue.Full:
            error = Overloaded("more requests are coming in than can be taken; try again later")
            self._say([failure(request.request_id, error, 1.0)])

    def cancel(self, request_id: str) -> None:
        """End a request. Waits for room: a cancellation is not lost."""
        self._inbox.put(lambda: self._engine.cancel(request_id))

    def do(self, work: Work) -> None:
        """Have something done between two steps. It must not raise."""
        self._inbox.put(work)

    def stop(self, seconds: float) -> None:
        """Take nothing more in, and end when nothing runs or the time is up."""
        self._inbox.put(lambda: self._begin_to_stop(seconds))

    def abort(self) -> None:
        """End after the present step, whatever runs."""
        self._is_aborted.set()
        try:
            self._inbox.put_nowait(_nothing)  # wakes it if it sleeps
        except queue.Full:
            return  # it does not sleep

    # ---- on the engine's thread ---------------------------------------------------------------

    def run(self) -> None:
        """Until it is told to end; what runs then is saved and fails."""
        while not self._is_over():
            self._take_in()
            if self._engine.is_idle:
                if self._store is not None:
                    self._store.poll()
                continue
            self._step_began = self._now()
            events = self._engine.step()
            self._step_began = None
            if events:
                self._say(events)
        events = self._engine.close()
        if events:
            self._say(events)

    def _is_over(self) -> bool:
        if self._is_aborted.is_set():
            return True
        if self._deadline is None:
            return False
        return self._engine.is_idle or self._now() >= self._deadline

    def _take_in(self) -> None:
        """Everything that waits; when there is nothing to compute, until something comes."""
        try:
            if self._engine.is_idle and self._deadline is None:
                self._inbox.get(timeout=_IDLE_SECONDS)()
            while True:
                self._inbox.get_nowait()()
        except queue.Empty:
            return

    def _submit(self, request: Request, form: TurnForm) -> None:
        if self._deadline is not None:
            error: SamovarError = Overloaded("the model is being unloaded; try again")
            self._say([failure(request.request_id, error, 1.0)])
            return
        try:
            self._engine.submit(request, form)
        except SamovarError as error:  # an id that is in use: no event could tell the two apart
            logger.warning("a request was not taken: %s", error)

    def _begin_to_stop(self, seconds: float) -> None:
        self._deadline = self._now() + seconds


def _nothing() -> None:
    """Work that does nothing."""
