"""Wires the threads of a worker.

    reader ──> preparer ──> ENGINE (main) ──> sender            cache i/o (see cache.transfer)
      │           tokenizing, templates,        │
      │           grammars: never on the        │
      └── Ping, Cancel, Stop overtake ──────────┘

The reader answers pings itself, with the age of the step that runs: so that the runtime hears of a
step that hangs, and not only of a process that does. When the runtime is gone, what runs is saved
and the process leaves; if that takes too long, it leaves without.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np

from samovar.errors import SamovarError
from samovar.ipc import messages as ipc
from samovar.ipc.channel import BrokenFrame, Channel
from samovar.ipc.requests import Request, unpack_request
from samovar.types import Embedded, Event, GenerateRequest
from samovar.version import __version__
from samovar.worker.loading import Loader, Served, load
from samovar.worker.loop import EngineLoop
from samovar.worker.operations import BETWEEN_STEPS, Operations

logger = logging.getLogger(__name__)

_OUTBOX = 1024  # frames: a runtime that is behind by so many steps holds the engine up
_PREPARE = 4096  # requests and questions that wait to be tokenized or rendered
_LEAVE_SECONDS = 10.0  # to save, once nobody is left; then the process ends as it is


def serve(fd: int, loader: Loader = load) -> ipc.ExitCode:
    """Serve one model over an inherited socket until it ends; returns why."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the runtime's to act on
    channel = Channel(socket.socket(fileno=fd))
    _send(channel, ipc.Hello(ipc.PROTOCOL, __version__, os.getpid()))
    wanted = _first(channel)
    if not isinstance(wanted, ipc.Load):
        return ipc.ExitCode.LOST_PARENT if wanted is None else ipc.ExitCode.PROTOCOL
    began = time.monotonic()
    try:
        served = loader(
            wanted.path,
            wanted.worker,
            wanted.cache,
            lambda share: _send(channel, ipc.Progress(share)),
        )
    except SamovarError as error:
        _send(channel, ipc.BootFailed(error.code, str(error)))
        return ipc.ExitCode.BOOT_FAILED
    except MemoryError:
        _send(channel, ipc.BootFailed("out_of_memory", "there is not enough memory to load it"))
        return ipc.ExitCode.BOOT_FAILED
    return _Worker(channel, served).run(time.monotonic() - began)


def _first(channel: Channel) -> ipc.Command | None:
    try:
        data = channel.read()
        return None if data is None else ipc.COMMANDS.decode(data)
    except (BrokenFrame, ValueError):
        return ipc.Stop(0)


def _send(channel: Channel, report: ipc.Report) -> None:
    channel.write(ipc.ENCODER.encode(report))


class _Worker:
    """The threads around one engine."""

    def __init__(self, channel: Channel, served: Served) -> None:
        self._channel = channel
        self._served = served
        self._loop = EngineLoop(served.engine, served.store, self._say)
        self._operations = Operations(served)
        self._preparing: queue.Queue[Callable[[], None] | None] = queue.Queue(_PREPARE)
        self._outbox: queue.Queue[tuple[bytes, int | None] | None] = queue.Queue(_OUTBOX)
        self._exit = ipc.ExitCode.OK
        self._is_lost = threading.Event()

    def run(self, load_seconds: float) -> ipc.ExitCode:
        """Serve until told to stop, or until nobody is left."""
        backend = self._served.backend
        sender = threading.Thread(target=self._write, name="samovar-sender", daemon=True)
        sender.start()
        self._report(
            ipc.Ready(
                self._served.description,
                backend.context_length,
                backend.num_sequences,
                "lanes" if backend.num_cells is None else "pool",
                backend.state_kind.value,
                self._served.renderer is not None,
                load_seconds,
            )
        )
        for target, name in ((self._read, "reader"), (self._prepare, "preparer")):
            threading.Thread(target=target, name=f"samovar-{name}", daemon=True).start()
        self._loop.run()
        is_saved = self._served.close()
        self._report(ipc.Stopped(is_saved))
        self._outbox.put(None)
        sender.join(_LEAVE_SECONDS)
        return self._exit

    # ---- reader -------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            while (data := self._channel.read()) is not None:
                self._take(ipc.COMMANDS.decode(data))
            self._leave(ipc.ExitCode.LOST_PARENT)
        except (BrokenFrame, ValueError):
            logger.exception("the runtime said something that makes no sense")
            self._leave(ipc.ExitCode.PROTOCOL)

    def _take(self, command: ipc.Command) -> None:
        match command:
            case ipc.Ping(number):
                running, waiting = self._loop.counts
                self._report(ipc.Pong(number, self._loop.step_seconds, running, waiting))
            case ipc.Cancel(request_id):
                self._preparing.put(lambda: self._loop.cancel(request_id))
            case ipc.Submit(kind, values):
                request = unpack_request(kind, values)
                self._preparing.put(lambda: self._submit(request))
            case ipc.Call():
                self._preparing.put(lambda: self._call(command))
            case ipc.Stop(seconds):
                self._preparing.put(lambda: self._loop.stop(seconds))
            case ipc.Load():
                raise ValueError("a worker loads one model")

    def _leave(self, code: ipc.ExitCode) -> None:
        """Nobody listens any more: save and go, and go in any case."""
        self._exit = code
        self._is_lost.set()
        self._loop.abort()
        timer = threading.Timer(_LEAVE_SECONDS, os._exit, [int(code)])
        timer.daemon = True
        timer.start()
        self._served.backend.abort()

    # ---- preparer -----------------------------------------------------------------------------

    def _prepare(self) -> None:
        while (work := self._preparing.get()) is not None:
            work()

    def _submit(self, request: Request) -> None:
        """Do what takes long about a request here, so that nobody's next token waits for it."""
        if isinstance(request, GenerateRequest):
            request = self._prepared(request)
        self._loop.submit(request)

    def _prepared(self, request: GenerateRequest) -> GenerateRequest:
        try:
            self._served.engine.prepare(request)
            return self._served.engine.tokenized(request)
        except SamovarError:
            return request  # the engine finds the same, and says so in the request's own event

    def _call(self, call: ipc.Call) -> None:
        if call.operation in BETWEEN_STEPS:
            self._loop.do(lambda: self._answer(call))
        else:
            self._answer(call)

    def _answer(self, call: ipc.Call) -> None:
        try:
            value = self._operations.ask(call.operation, call.arguments)
            self._report(ipc.Answer(call.call_id, value))
        except SamovarError as error:
            self._report(ipc.Answer(call.call_id, None, error.code, str(error)))

    # ---- sender -------------------------------------------------------------------------------

    def _say(self, events: Iterable[Event]) -> None:
        """One frame for all events of a step; vectors go by descriptor."""
        small: list[ipc.WireEvent] = []
        for event in events:
            if isinstance(event, Embedded):
                self._say_vectors(event)
            else:
                small.append(event)
        if small:
            self._report(ipc.Output(tuple(small)))

    def _say_vectors(self, event: Embedded) -> None:
        vectors = np.ascontiguousarray(event.vectors, np.float32)
        rows, width = vectors.shape
        fd = os.memfd_create("samovar-vectors", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(vectors.tobytes())
        report = ipc.Vectors(event.request_id, rows, width, event.usage)
        self._put(ipc.ENCODER.encode(report), fd)

    def _report(self, report: ipc.Report) -> None:
        self._put(ipc.ENCODER.encode(report), None)

    def _put(self, data: bytes, fd: int | None) -> None:
        while not self._is_lost.is_set():
            try:
                self._outbox.put((data, fd), timeout=1.0)
            except queue.Full:
                continue
            return
        if fd is not None:
            os.close(fd)

    def _write(self) -> None:
        while (item := self._outbox.get()) is not None:
            data, fd = item
            fds = [] if fd is None else [fd]
            is_sent = self._channel.write(data, fds)
            for one in fds:
                os.close(one)
            if not is_sent:
                self._is_lost.set()
