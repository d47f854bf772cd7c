"""One worker's life: spawn, ready, watch, end.

    OFF ──start──> STARTING ──Ready──> READY ──stop──> STOPPING ──exit──> OFF
                      │ BootFailed, exit  │ exit, stuck
                      v                   v
                     OFF                 OFF        (why: Death)

Whether it is started again is the runtime's to decide. A process that does not answer is asked for
a dump of its stacks (SIGABRT) and killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from samovar.config import CacheConfig, RuntimeConfig, WorkerConfig
from samovar.errors import LoadFailed, OutOfMemory, SamovarError, from_code
from samovar.ipc import messages as ipc
from samovar.ipc.environment import worker_environment
from samovar.ipc.logs import hand_on
from samovar.runtime.connection import Connection
from samovar.runtime.last_words import LastWords

logger = logging.getLogger(__name__)

_DUMP_SECONDS = 3.0  # for the stacks to be written, before the process is killed
_SAVE_SECONDS = 16.0  # to write what is to be kept, once what ran has ended


class Phase(Enum):
    """Where a worker is in its life."""

    OFF = "off"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Spec:
    """What a worker loads."""

    path: str
    worker: WorkerConfig
    cache: CacheConfig | None
    need_bytes: int = 0
    """What it takes of a limit that models share."""


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended."""

    code: int
    """Its exit code; negative: the signal that ended it."""
    was_stuck: bool = False

    @property
    def blame(self) -> float:
        """How likely something that it computed was the cause; 1: so it seems, 0: it was not.

        SIGKILL comes from outside: from somebody, or from the kernel because memory ran out, which
        is a request's doing if it happens again and again.
        """
        if self.was_stuck:
            return 1.0
        if self.code == -signal.SIGKILL:
            return 0.5
        return 0.0 if self.code in _FROM_OUTSIDE else 1.0

    def __str__(self) -> str:
        if self.was_stuck:
            return "did not finish a step and was killed"
        if self.code < 0:
            return f"was ended by {_signal_name(-self.code)}"
        return f"ended with code {self.code}"


_FROM_OUTSIDE = frozenset(
    {
        ipc.ExitCode.OK,
        ipc.ExitCode.LOST_PARENT,
        ipc.ExitCode.PROTOCOL,
        -signal.SIGTERM,
        -signal.SIGINT,
        -signal.SIGHUP,
        -signal.SIGQUIT,
    }
)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"


class Supervisor:
    """Starts one worker process and watches it. For one event loop."""

    def __init__(
        self,
        spec: Spec,
        config: RuntimeConfig,
        on_report: Callable[[ipc.Report, list[int]], None],
        on_death: Callable[[Death], None],
    ) -> None:
        self.spec = spec
        self.phase = Phase.OFF
        self.ready: ipc.Ready | None = None
        self.progress = 0.0
        """How much of the model is loaded, 0 to 1."""
        self.is_refused = False
        """The worker itself said why it cannot load: it would say so again."""
        self._config = config
        self._on_report = on_report
        self._on_death = on_death
        self._process: asyncio.subprocess.Process | None = None
        self._connection: Connection | None = None
        self._words: LastWords | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._booted: asyncio.Future[ipc.Ready] | None = None
        self._gone: asyncio.Event = asyncio.Event()
        self._heard = 0.0
        self._asked: float | None = None
        """Since when a heartbeat has been due."""
        self._was_stuck = False
        self._was_killed = False

    @property
    def pid(self) -> int | None:
        """Of the process; None: there is none."""
        return None if self._process is None or self.phase is Phase.OFF else self._process.pid

    @property
    def last_words(self) -> list[str]:
        """What the process wrote to its standard error last, line by line."""
        return [] if self._words is None else list(self._words.lines)

    async def start(self) -> ipc.Ready:
        """Spawn and load. Raises what loading raises, and LoadFailed where it dies of it."""
        loop = asyncio.get_running_loop()
        self.phase, self.progress, self.ready = Phase.STARTING, 0.0, None
        self._booted, self._gone = loop.create_future(), asyncio.Event()
        self._was_stuck = self._was_killed = self.is_refused = False
        self._process, self._asked = None, None
        ours, theirs = socket.socketpair()
        self._words = LastWords(hand_on)
        try:
            self._process = await self._spawn(theirs.fileno(), self._words.writer)
        except BaseException as error:
            ours.close()
            self._words.close()
            self.phase = Phase.OFF
            self._gone.set()
            if isinstance(error, OSError):
                raise LoadFailed(f"a worker cannot be started: {error.strerror}") from error
            raise
        finally:
            theirs.close()
            self._words.hand_over()
        self._heard = loop.time()
        self._connection = Connection(ours, self._take, self._end_what_babbles)
        self._tasks = [
            loop.create_task(self._outlive(self._process)),
            loop.create_task(self._watch(self._process)),
        ]
        if self.phase is not Phase.STARTING:  # it is no longer wanted
            self.kill()
        return await asyncio.shield(self._booted)

    async def _spawn(self, fd: int, stderr: int) -> asyncio.subprocess.Process:
        command = self._config.command or (sys.executable, "-m", "samovar.worker")
        return await asyncio.create_subprocess_exec(
            *command,
            str(fd),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=(fd,),
            start_new_session=True,
            env=worker_environment(),
        )

    def send(self, command: ipc.Command) -> None:
        """Tell it something. Raises Overloaded when it does not listen."""
        if self._connection is not None:
            self._connection.send(command)

    async def stop(self, seconds: float) -> None:
        """Let it finish and save within a time, then make an end. Idempotent."""
        if self.phase is Phase.OFF:
            return
        was_loading = self.phase is Phase.STARTING
        self.phase = Phase.STOPPING
        if was_loading:  # there is nothing to save
            self.kill()
        with contextlib.suppress(SamovarError):
            self.send(ipc.Stop(seconds))
        try:
            await asyncio.wait_for(self._gone.wait(), seconds + _SAVE_SECONDS)
        except TimeoutError:
            self.kill()
            await self._gone.wait()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            self._was_killed = True
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    # ---- what it says -------------------------------------------------------------------------

    def _take(self, report: ipc.Report, fds: list[int]) -> None:
        self._heard = asyncio.get_running_loop().time()
        match report:
            case ipc.Hello():
                self._greet(report)
            case ipc.Progress(fraction=fraction):
                self.progress = fraction
            case ipc.Ready():
                self._begin(report)
            case ipc.BootFailed(code=code, message=message):
                self.is_refused = True
                self._fail_boot(from_code(code, message))
            case ipc.Pong(step_seconds=seconds):
                self._asked = None
                if seconds > self._config.stuck_seconds:
                    self._note_stuck()
            case _:
                self._on_report(report, fds)

    def _greet(self, hello: ipc.Hello) -> None:
        if hello.protocol != ipc.PROTOCOL:
            self.is_refused = True
            text = "the worker is of another version than what starts it; restart the program"
            self._fail_boot(LoadFailed(text))
            self.kill()
        elif self.phase is Phase.STARTING:
            self.send(ipc.Load(self.spec.path, self.spec.worker, self.spec.cache))

    def _begin(self, ready: ipc.Ready) -> None:
        if self.phase is Phase.STARTING:
            self.phase, self.ready, self.progress = Phase.READY, ready, 1.0
            if self._booted is not None and not self._booted.done():
                self._booted.set_result(ready)

    def _end_what_babbles(self) -> None:
        logger.warning("worker %s says what makes no sense; it is ended", self.pid)
        self._fail_boot(LoadFailed("the worker speaks another language; restart the program"))
        self.kill()

    def _fail_boot(self, error: SamovarError) -> None:
        if self._booted is not None and not self._booted.done():
            self._booted.set_exception(error)
            self._booted.exception()  # whoever waited may have left, and that is no event

    # ---- watching -----------------------------------------------------------------------------

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Ask for a sign of life; without one for too long, make an end."""
        while not self._was_stuck:
            await asyncio.sleep(self._config.ping_seconds)
            if self._is_overdue() and self._connection is not None:
                self._connection.drain()  # it may be us who did not listen
                if self._is_overdue():
                    self._note_stuck()
            if self.phase is Phase.READY and self._asked is None:
                self._asked = asyncio.get_running_loop().time()
                with contextlib.suppress(SamovarError):
                    self.send(ipc.Ping(0))
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGABRT)
        await asyncio.sleep(_DUMP_SECONDS)
        self.kill()

    def _is_overdue(self) -> bool:
        """Whether it has said nothing for too long, though it was to say something."""
        now = asyncio.get_running_loop().time()
        if self.phase is Phase.STARTING:
            return now - self._heard > self._config.boot_seconds
        is_due = self.phase is Phase.READY and self._asked is not None
        return is_due and now - (self._asked or 0.0) > self._config.stuck_seconds

    def _note_stuck(self) -> None:
        if not self._was_stuck:
            logger.warning("worker %s hangs; it is ended", self.pid)
        self._was_stuck = True

    async def _outlive(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        self._tasks[1].cancel()
        await asyncio.sleep(0)  # what it said last has arrived, and is read first
        if self._connection is not None:
            self._connection.drain()
            self._connection.close()
            self._connection = None
        if self._words is not None:
            self._words.close()
        was_stopping, self.phase = self.phase is Phase.STOPPING, Phase.OFF
        death = Death(code, self._was_stuck)
        self._fail_boot(self._why_not_booted(death))
        self._gone.set()
        if not was_stopping and not self.is_refused:
            self._log(process.pid, death)
        self._on_death(death)

    def _log(self, pid: int, death: Death) -> None:
        """A dump of its stacks, if there is one, says where it was."""
        words = "\n    ".join(["", *self.last_words]) if death.blame == 1 else ""
        logger.warning("worker %s %s%s", pid, death, words)

    def _why_not_booted(self, death: Death) -> SamovarError:
        """What became of a worker that never was ready, in words that help."""
        if death.was_stuck:
            return LoadFailed("the worker made no progress while it loaded, and was ended")
        if self._was_killed:
            return LoadFailed("loading was ended before it was done")
        if death.code == -signal.SIGKILL:
            return OutOfMemory(
                "the worker was killed while it loaded: most likely there was too little memory;"
                " load a smaller model, or with a shorter context"
            )
        said = next((line for line in reversed(self.last_words) if "Error" in line), "")
        detail = f": {said}" if said else ""
        return LoadFailed(f"the worker {death} while it loaded{detail}; run `samovar doctor`")
