"""Interrupts a decode call: at its deadline, or when another thread asks.

llama.cpp asks its abort callback before every graph node, from the thread that computes. A Python
callback would take the interpreter lock a thousand times per token, so the callback is libc's
`strlen` over a two-byte buffer: it answers 0 while the first byte is 0 and 1 when it is set, and
setting a byte is all that an interruption takes. One thread per process watches the deadlines;
arming one costs a lock and a store, and wakes nobody unless it is the earliest.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
import weakref

import llama_cpp.llama_cpp as ll

# `bool (*)(void *)`: the low byte of strlen's result is the bool on every ABI llama.cpp runs on.
ABORT_CALLBACK = ctypes.cast(ctypes.CDLL(None).strlen, ll.ggml_abort_callback)

_AGAIN_SECONDS = 0.01  # a call that was just being armed has forgotten that it was to stop


class Deadline:
    """The abort flag of one context, and the moment at which it sets itself.

    `arm`, run the decode call, `disarm`, in one `try`: disarming what was never armed is allowed.
    `abort` may be called from any thread; it interrupts the call that is running and is forgotten
    when the next one is armed. `stop` is for whoever frees the context, which may be another thread
    at the end of the process.
    """

    def __init__(self) -> None:
        self._flag = ctypes.create_string_buffer(2)
        self._at = math.inf
        # Held while a call runs. Reentrant: a signal may end `arm` or `disarm` half way, and then
        # the thread that is left with the lock is the one that arms or frees next.
        self._running = threading.RLock()
        self.is_overdue = False
        """Whether the last armed call was interrupted by its deadline."""
        _watch.add(self)

    @property
    def address(self) -> int:
        """Where the abort callback looks."""
        return ctypes.addressof(self._flag)

    @property
    def is_set(self) -> bool:
        """Whether the call that is running has been told to stop."""
        return self._flag[0] != b"\x00"

    def arm(self, seconds: float) -> None:
        """Clear the flag, and set it `seconds` from now; `math.inf`: never."""
        self._running.acquire()
        with _watch.lock:
            self._flag[0] = b"\x00"
            self.is_overdue = False
            self._at = time.monotonic() + seconds
            if self._at < _watch.wakes_at:
                _watch.changed.notify()

    def disarm(self) -> None:
        """The call is over."""
        try:
            # Without the lock: if the moment is just coming, the next call clears the flag again.
            self._at = math.inf
        finally:
            try:  # noqa: SIM105 - `suppress` is slow beside it, and every decode call comes here
                self._running.release()
            except RuntimeError:
                pass  # a signal came before the lock was taken

    def abort(self) -> None:
        """Interrupt the running call at its next graph node."""
        self._flag[0] = b"\x01"

    def stop(self) -> None:
        """Interrupt the running call, if there is one, and wait until it is over."""
        self.abort()
        while not self._running.acquire(timeout=_AGAIN_SECONDS):
            self.abort()
        self._running.release()

    def expire(self, now: float) -> float:
        """Set the flag if the moment has come; returns when it will. The lock is held."""
        if self._at <= now:
            self._flag[0] = b"\x01"
            self.is_overdue = True
            self._at = math.inf
        return self._at


class _Watch:
    """The deadlines of this process and the thread that sleeps until the earliest of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.wakes_at = math.inf
        self._deadlines: weakref.WeakSet[Deadline] = weakref.WeakSet()
        self._thread: threading.Thread | None = None

    def add(self, deadline: Deadline) -> None:
        with self.lock:
            self._deadlines.add(deadline)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="samovar-deadlines", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        with self.lock:
            while True:
                now = time.monotonic()
                self.wakes_at = min((d.expire(now) for d in self._deadlines), default=math.inf)
                # A wait longer than the platform's longest is refused; waking early does no harm.
                self.changed.wait(min(self.wakes_at - now, threading.TIMEOUT_MAX))


_watch = _Watch()
