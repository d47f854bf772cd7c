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
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from samovar.config import CacheConfig, RuntimeConfig, WorkerConfig
from samovar.errors import LoadFailed, SamovarError, from_code
from samovar.ipc import messages as ipc
from samovar.runtime.connection import Connection

logger = logging.getLogger(__name__)

_DUMP_SECONDS = 3.0  # for the stacks to be written, before the process is killed
_STDERR_LINES = 200  # of the last words of a worker that are kept


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


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended."""

    code: int
    """Its exit code; negative: the signal that ended it."""
    was_stuck: bool = False

    @property
    def is_own_fault(self) -> bool:
        """Whether what it computed may have killed it. SIGKILL comes from outside."""
        return self.was_stuck or self.code in _CRASHES

    def __str__(self) -> str:
        if self.was_stuck:
            return "did not finish a step and was killed"
        if self.code < 0:
            return f"was ended by {signal.Signals(-self.code).name}"
        return f"ended with code {self.code}"


_CRASHES = frozenset(
    -number
    for number in (
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGSYS,
    )
)


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
        self.last_words: deque[str] = deque(maxlen=_STDERR_LINES)
        self._config = config
        self._on_report = on_report
        self._on_death = on_death
        self._process: asyncio.subprocess.Process | None = None
        self._connection: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._booted: asyncio.Future[ipc.Ready] | None = None
        self._gone: asyncio.Event = asyncio.Event()
        self._heard = 0.0
        self._was_stuck = False

    @property
    def pid(self) -> int | None:
        """Of the process; None: there is none."""
        return None if self._process is None or self.phase is Phase.OFF else self._process.pid

    async def start(self) -> ipc.Ready:
        """Spawn and load. Raises what loading raises, and LoadFailed where it dies of it."""
        loop = asyncio.get_running_loop()
        self.phase, self.progress, self.ready = Phase.STARTING, 0.0, None
        self._booted, self._gone, self._was_stuck = loop.create_future(), asyncio.Event(), False
        self.last_words.clear()
        ours, theirs = socket.socketpair()
        try:
            command = self._config.command or (sys.executable, "-m", "samovar.worker")
            self._process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            self.phase = Phase.OFF
            raise LoadFailed(f"a worker cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
        self._heard = loop.time()
        self._connection = Connection(ours, self._take, lambda: None)
        self._tasks = [
            loop.create_task(self._listen(self._process)),
            loop.create_task(self._outlive(self._process)),
            loop.create_task(self._watch(self._process)),
        ]
        return await asyncio.shield(self._booted)

    def send(self, command: ipc.Command) -> None:
        """Tell it something. Raises Overloaded when it does not listen."""
        if self._connection is not None:
            self._connection.send(command)

    async def stop(self, seconds: float) -> None:
        """Let it finish and save within a time, then make an end. Idempotent."""
        if self.phase is Phase.OFF:
            return
        self.phase = Phase.STOPPING
        with contextlib.suppress(SamovarError):
            self.send(ipc.Stop(seconds))
        try:
            await asyncio.wait_for(self._gone.wait(), seconds + 2 * _DUMP_SECONDS + 10.0)
        except TimeoutError:
            self.kill()
            await self._gone.wait()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    # ---- what it says -------------------------------------------------------------------------

    def _take(self, report: ipc.Report, fds: list[int]) -> None:
        self._heard = asyncio.get_running_loop().time()
        match report:
            case ipc.Hello(protocol=protocol):
                if protocol != ipc.PROTOCOL:
                    self._fail_boot(LoadFailed("the worker is of another version; restart"))
                    self.kill()
                else:
                    spec = self.spec
                    self.send(ipc.Load(spec.path, spec.worker, spec.cache))
            case ipc.Progress(fraction=fraction):
                self.progress = fraction
            case ipc.Ready():
                self.phase, self.ready, self.progress = Phase.READY, report, 1.0
                if self._booted is not None and not self._booted.done():
                    self._booted.set_result(report)
            case ipc.BootFailed(code=code, message=message):
                self._fail_boot(from_code(code, message))
            case ipc.Pong(step_seconds=seconds):
                if seconds > self._config.stuck_seconds:
                    self._note_stuck()
            case _:
                self._on_report(report, fds)

    def _fail_boot(self, error: SamovarError) -> None:
        if self._booted is not None and not self._booted.done():
            self._booted.set_exception(error)

    # ---- watching -----------------------------------------------------------------------------

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Ask for a sign of life; without one for too long, make an end."""
        loop, number = asyncio.get_running_loop(), 0
        while True:
            await asyncio.sleep(self._config.ping_seconds)
            if self.phase is Phase.READY:
                number += 1
                with contextlib.suppress(SamovarError):
                    self.send(ipc.Ping(number))
            is_loading = self.phase is Phase.STARTING
            patience = self._config.boot_seconds if is_loading else self._config.stuck_seconds
            if self.phase is not Phase.STOPPING and loop.time() - self._heard > patience:
                self._note_stuck()
            if self._was_stuck:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGABRT)
                await asyncio.sleep(_DUMP_SECONDS)
                self.kill()
                return

    def _note_stuck(self) -> None:
        if not self._was_stuck:
            logger.warning("worker %s hangs; it is ended", self.pid)
        self._was_stuck = True

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Its last words are kept: a dump of its stacks, or the linker's complaint."""
        assert process.stderr is not None
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:  # a line longer than anyone reads
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            self.last_words.append(text)
            logger.debug("worker %s: %s", process.pid, text)

    async def _outlive(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        listen, _, watch = self._tasks
        watch.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(listen), 1.0)
        listen.cancel()
        if self._connection is not None:
            await asyncio.sleep(0)  # what it said last has arrived, and is read first
            self._connection.drain()
            self._connection.close()
            self._connection = None
        was_stopping, self.phase = self.phase is Phase.STOPPING, Phase.OFF
        death = Death(code, self._was_stuck)
        self._fail_boot(LoadFailed(self._why_not_booted(death)))
        self._gone.set()
        if not was_stopping and code != ipc.ExitCode.BOOT_FAILED:
            logger.warning("worker %s %s", process.pid, death)
        self._on_death(death)

    def _why_not_booted(self, death: Death) -> str:
        """What became of a worker that never was ready, in words that help."""
        if death.code == -signal.SIGKILL:
            return "the worker was killed while it loaded: most likely there was too little memory"
        said = next((line for line in reversed(self.last_words) if "Error" in line), "")
        detail = f": {said}" if said else ""
        return f"the worker {death} while it loaded{detail}; run `samovar doctor`"
