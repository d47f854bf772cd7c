"""How llama.cpp's threads wait for each other: spinning, or asleep after a moment.

At its barriers libgomp spins for about 3 ms before it sleeps. Alone that is best; where another
process wants the cores it is ruinous, because the thread that everyone waits for cannot run while
those that wait keep its core busy. How long it spins is read once, when it loads. But it spins a
hundred rounds and no more while it has more threads than there are cores (`gomp_managed_threads`
and `gomp_throttled_spin_count_var` in its sources), and none where the environment says so
(`ipc.environment`). Threads that sleep count, so a team of idle ones, held by a thread of ours, is
a switch that can be turned at any time.

Which way it is turned follows from what the kernel says: that threads of this process were ready to
run and had no core (`/proc/self/task/*/schedstat`) ends the spinning; that others leave it enough
cores (`/proc/stat`) begins it again. Sleepers alone would not tell: they get a core when they wake.
Asking about every thread takes a quarter of a millisecond between two steps. Threads that spin are
there to be interrupted, so while hardly any was, which is asked at once, that is left for later.
"""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

_TASKS = Path("/proc/self/task")
_STAT = Path("/proc/stat")
_SAMPLE_SECONDS = 0.05  # between two looks: one costs some ten microseconds a thread
_TRUST_SECONDS = 0.5  # so long it is believed that nobody comes because nobody interrupts
_CROWDED = 0.15  # of the time in which threads wanted a core: they did not get one
_QUIET = 0.03
_WINDOW_SECONDS = 0.25  # over which others are counted: the kernel counts in hundredths
_SPARE = 0.15  # cores: so much of one that is wanted may others take
_LEAST_HOLD, _MOST_HOLD = 1.0, 60.0  # seconds asleep before spinning is tried again
_CALM = 10.0  # times the hold: so long without company, and the next hold is short again


@functools.cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL] | None:
    """The libraries of threads and of C; None where llama.cpp's threads are not libgomp's."""
    try:
        gomp, libc = ctypes.CDLL("libgomp.so.1"), ctypes.CDLL(None)
        gomp.GOMP_parallel.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_uint,
            ctypes.c_uint,
        ]
        gomp.GOMP_parallel.restype = None
    except (OSError, AttributeError):
        return None
    return gomp, libc


class Sleepers:
    """A team of idle threads: while it is there, every wait at a barrier is short."""

    def __init__(self) -> None:
        self._may_go = threading.Event()
        is_there = threading.Event()
        self._thread = threading.Thread(
            target=self._hold, args=(is_there,), name="samovar-sleepers", daemon=True
        )
        self._thread.start()
        is_there.wait()

    def let_go(self) -> None:
        """They may end, whenever they do."""
        self._may_go.set()

    def close(self) -> None:
        """Let them go, and wait until they are gone. Idempotent."""
        self.let_go()
        self._thread.join()

    def _hold(self, is_there: threading.Event) -> None:
        found = _libraries()
        if found is not None:
            gomp, libc = found
            nothing = ctypes.cast(libc.free, ctypes.c_void_p)  # of NULL: does nothing
            gomp.GOMP_parallel(nothing, None, (os.cpu_count() or 1) + 2, 0)
        is_there.set()
        self._may_go.wait()  # the team ends with the thread that made it


def run_delay() -> float | None:
    """Seconds that threads of this process, all together, were kept from running; None: unknown."""
    total = 0
    try:
        for task in _TASKS.iterdir():
            try:
                total += int((task / "schedstat").read_bytes().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
    except (OSError, ValueError, IndexError):
        return None
    return total / 1e9


def others_busy() -> float | None:
    """Seconds of cores that other processes have used since the machine began; None: unknown."""
    try:
        fields = _STAT.read_bytes().split(b"\n", 1)[0].split()
        user, nice, system, _, _, irq, soft, steal = map(int, fields[1:9])
    except (OSError, ValueError):
        return None
    ticks = user + nice + system + irq + soft + steal
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def interruptions() -> int:
    """How often threads of this process had to make room for others."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class Waiting:
    """Turns the switch for the decode calls of one context, which has so many threads.

    Begins asleep, and spins when it finds itself alone: the other way round, the first call in
    company could take seconds.
    """

    def __init__(
        self,
        threads: int,
        delay: Callable[[], float | None] = run_delay,
        clock: Callable[[], float] = time.monotonic,
        others: Callable[[], float | None] = others_busy,
        interrupted: Callable[[], int] = interruptions,
    ) -> None:
        self._threads = threads
        self._delay = delay
        self._now = clock
        self._others = others
        self._interrupted = interrupted
        self._interruptions = 0
        self._seen: tuple[float, float] | None = None
        """When others were last counted, and how much they had used by then."""
        self._can_turn: bool | None = None if threads > 1 else False
        self._sleepers: Sleepers | None = None
        self._busy, self._glanced, self._looked, self._delayed = 0.0, 0.0, 0.0, 0.0
        self._hold, self._since, self._may_spin_at = _LEAST_HOLD, 0.0, 0.0

    @property
    def is_spinning(self) -> bool:
        """Whether threads spin now."""
        return self._sleepers is None

    def close(self) -> None:
        """Leave it as libgomp has it, for good. Idempotent."""
        self._can_turn = False
        self._spin()

    def before(self) -> None:
        """A decode call begins."""
        if self._can_turn is None:
            delayed = self._delay()
            self._can_turn = delayed is not None and _libraries() is not None
            if delayed is not None and self._can_turn:
                self._looked = self._since = self._now()
                self._delayed = delayed
                self._sleep()

    def after(self, seconds: float) -> None:
        """It took so long."""
        if not self._can_turn:
            return
        self._busy += seconds
        now = self._now()
        if now - self._glanced < _SAMPLE_SECONDS or self._busy <= 0:
            return
        self._glanced = now
        if self._was_left_alone(now):
            return
        delayed = self._delay()
        if delayed is None:
            self.close()
            return
        share = max(0.0, delayed - self._delayed) / (self._busy * self._threads)
        self._looked, self._delayed, self._busy = now, delayed, 0.0
        self._turn(share, now)

    def _was_left_alone(self, now: float) -> bool:
        """Whether its threads spin, and were interrupted once at most since the last glance."""
        before, self._interruptions = self._interruptions, self._interrupted()
        is_alone = self.is_spinning and self._interruptions - before < 2
        return is_alone and now - self._looked < _TRUST_SECONDS

    def _turn(self, share: float, now: float) -> None:
        if self.is_spinning and share > _CROWDED:
            if now - self._since > _CALM * self._hold:
                self._hold = _LEAST_HOLD
            self._since, self._may_spin_at = now, now + self._hold
            self._hold = min(2 * self._hold, _MOST_HOLD)
            self._sleep()
            return
        may_spin = not self.is_spinning and now >= self._may_spin_at and share < _QUIET
        if may_spin and self._has_cores(now):
            self._since = now
            self._spin()

    def _has_cores(self, now: float) -> bool:
        """Whether others have left a core for each thread since they were last counted."""
        used = self._others()
        if used is None:
            return True
        if self._seen is None:
            self._seen = now, used
        began, before = self._seen
        if now - began < _WINDOW_SECONDS:
            return False
        self._seen = now, used
        free = (os.cpu_count() or 1) - (used - before) / (now - began)
        return free >= self._threads - _SPARE

    def _sleep(self) -> None:
        self._seen = None
        self._sleepers = Sleepers()
        weakref.finalize(self, self._sleepers.let_go)  # should nobody close this

    def _spin(self) -> None:
        if self._sleepers is not None:
            self._sleepers.close()
            self._sleepers = None
