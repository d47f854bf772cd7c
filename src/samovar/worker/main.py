"""Wires the threads of a worker.

    reader ──> preparer ──> ENGINE (main) ──> sender            cache i/o (see cache.transfer)
      │           tokenizing, templates,        │
      │           grammars: never on the        │
      └── Ping, Cancel overtake ────────────────┘

The reader answers pings itself, with the age of the step that runs: so that the runtime hears of a
step that hangs, and not only of a process that does. When the runtime is gone, what runs is saved
and the process leaves; if that takes too long, it leaves without. A thread that raises what it
should not ends the process: the runtime starts another one, and knows what it was told.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

import numpy as np

from samovar.chat.turn import PLAIN, TurnForm
from samovar.engine.failure import failure
from samovar.errors import SamovarError
from samovar.ipc import messages as ipc
from samovar.ipc.channel import BrokenFrame, Channel
from samovar.ipc.requests import Request, unpack_request
from samovar.types import Embedded, Event, GenerateRequest
from samovar.version import __version__
from samovar.worker.loading import Loader, Served, load
from samovar.worker.loop import EngineLoop
from samovar.worker.operations import BETWEEN_STEPS, Operations
from samovar.worker.replaying import Replaying

logger = logging.getLogger(__name__)

_OUTBOX = 1024  # frames: a runtime that is behind by so many steps holds the engine up
_PREPARE = 4096  # requests and questions that wait to be tokenized or rendered
_LIGHT = 2048  # characters, which are tokenized within a millisecond
_LEAVE_SECONDS = 10.0  # to save, once nobody is left; then the process ends as it is
_LOOK_SECONDS = 1.0  # between two looks whether somebody is there, while a model is loaded
_FLUSH_SECONDS = 2.0  # for what was said to go out, before a process ends in disorder


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
    is_loaded = threading.Event()
    watch = threading.Thread(target=_leave_if_alone, args=(fd, is_loaded), daemon=True)
    watch.start()
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
    is_loaded.set()
    gc.freeze()  # what is there now stays; looking through it for garbage would hold up a step
    return _Worker(channel, served).run(time.monotonic() - began)


def _leave_if_alone(fd: int, is_loaded: threading.Event) -> None:
    """End the process when the runtime goes while a model is loaded: there is nothing to save."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    while not is_loaded.is_set():
        if poll.poll(_LOOK_SECONDS * 1000) and not is_loaded.is_set():
            os._exit(ipc.ExitCode.LOST_PARENT)


def _is_light(request: Request) -> bool:
    """Whether there is so little to prepare that handing it to another thread takes longer."""
    if not isinstance(request, GenerateRequest):
        return True
    if request.chat is not None:
        return False
    is_tokenized = isinstance(request.prompt, tuple)
    return request.sampling.grammar is None and (is_tokenized or len(request.prompt) <= _LIGHT)


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
        self._lock = threading.Lock()
        self._unprepared: dict[str, bool] = {}
        """Requests that the engine has not got yet, by id: whether they were cancelled."""

    def run(self, load_seconds: float) -> ipc.ExitCode:
        """Serve until told to stop, or until nobody is left."""
        backend = self._served.backend
        threading.excepthook = lambda raised: self._fail(raised.exc_value)
        sender = threading.Thread(target=self._write, name="samovar-sender", daemon=True)
        sender.start()
        self._report(
            ipc.Ready(
                self._served.description,
                backend.context_length,
                backend.num_sequences,
                "lanes" if backend.num_cells is None else "pool",
                backend.state_kind.value,
                self._served.has_template,
                load_seconds,
                self._served.mapped_bytes,
            )
        )
        for target, name in ((self._read, "reader"), (self._prepare, "preparer")):
            threading.Thread(target=target, name=f"samovar-{name}", daemon=True).start()
        try:
            self._loop.run()
            is_saved = self._served.close()
        except Exception as error:  # noqa: BLE001 - the engine's guard: another process goes on
            self._fail(error, sender)
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
                self._cancel(request_id)
            case ipc.Submit():
                self._take_request(command)
            case ipc.Call():
                self._preparing.put(lambda: self._call(command))
            case ipc.Stop(seconds):
                self._preparing.put(lambda: self._loop.stop(seconds))
            case ipc.Load():
                raise ValueError("a worker loads one model")

    def _take_request(self, command: ipc.Submit) -> None:
        try:
            request = unpack_request(command.kind, command.values)
        except SamovarError as error:
            self._say([failure(str(command.values.get("request_id")), error)])
            return
        with self._lock:
            self._unprepared[request.request_id] = False
        if not self._preparing.unfinished_tasks and _is_light(request):  # it overtakes nobody
            self._submit(request)
        else:
            self._preparing.put(lambda: self._submit(request))

    def _cancel(self, request_id: str) -> None:
        """Overtake everything that waits to be prepared, but not the request itself."""
        with self._lock:
            if request_id in self._unprepared:
                self._unprepared[request_id] = True
                return
        self._loop.cancel(request_id)

    def _leave(self, code: ipc.ExitCode) -> None:
        """Nobody listens any more: save and go, and go in any case."""
        self._exit = code
        self._is_lost.set()
        self._loop.abort()
        timer = threading.Timer(_LEAVE_SECONDS, os._exit, [int(code)])
        timer.daemon = True
        timer.start()
        signal.alarm(int(2 * _LEAVE_SECONDS))  # the kernel's clock, should no thread of ours run
        self._served.backend.abort()

    # ---- preparer -----------------------------------------------------------------------------

    def _prepare(self) -> None:
        while (work := self._preparing.get()) is not None:
            work()
            self._preparing.task_done()

    def _submit(self, request: Request) -> None:
        """Do what takes long about a request here, so that nobody's next token waits for it."""
        form = PLAIN
        try:
            if isinstance(request, GenerateRequest):
                request, form = self._prepared(request)
            self._loop.submit(request, form)
        except SamovarError as error:
            self._say([failure(request.request_id, error)])
        with self._lock:  # from now on a cancellation finds it in the engine's inbox
            is_cancelled = self._unprepared.pop(request.request_id, False)
        if is_cancelled:
            self._loop.cancel(request.request_id)

    def _prepared(self, request: GenerateRequest) -> tuple[GenerateRequest, TurnForm]:
        """What the engine is to serve. Raises what is wrong with a conversation."""
        form = PLAIN
        if request.chat is not None:
            request, form = self._served.chats.prepared(request)
        if self._unprepared.get(request.request_id, False):
            return request, form
        try:
            self._served.engine.prepare(request)
            return self._served.engine.tokenized(request), form
        except SamovarError:
            return request, form  # the engine finds the same, and says so in the request's event

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

    def _fail(
        self, error: BaseException | None, sender: threading.Thread | None = None
    ) -> NoReturn:
        """End the process where it stands, once what was said is out and the cause is written."""
        logger.critical("a worker ends because of a bug", exc_info=error)
        if sender is not None:
            self._outbox.put(None)
            sender.join(_FLUSH_SECONDS)
        sys.stderr.flush()
        os._exit(ipc.ExitCode.BUG)

    # ---- sender -------------------------------------------------------------------------------

    def _say(self, events: Iterable[Event]) -> None:
        """One frame for all events of a step; vectors go by descriptor."""
        replaying = self._served.chats.replaying
        if replaying is not None:
            events = replaying.told(events)
            if replaying.has_news:
                self._settle_soon(replaying)
        small: list[ipc.WireEvent] = []
        for event in events:
            if isinstance(event, Embedded):
                self._say_vectors(event)
            else:
                small.append(event)
        if small:
            self._report(ipc.Output(tuple(small)))

    def _settle_soon(self, replaying: Replaying) -> None:
        """Have the preparer remember what was generated: it reads, and writes to the disk."""
        with contextlib.suppress(queue.Full):  # the next conversation does it
            self._preparing.put_nowait(replaying.settle)

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
