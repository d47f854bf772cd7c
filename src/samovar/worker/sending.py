"""What goes to the runtime: in the order in which it is given, and without holding up who gives it.

    give ──> the socket, where nothing waits and it takes everything at once: nearly always
      └────> outbox (bounded) ──> a thread of its own ──> the socket

To hand a frame to another thread takes longer than to send it, and the engine's thread would go on
with its next step before the other one runs at all: so each token would come later.
"""

from __future__ import annotations

import os
import queue
import threading

from samovar.ipc.channel import Channel

OUTBOX = 1024  # frames: a runtime that is behind by so many steps holds the engine up


class Sender:
    """The writing end of a channel, for all threads of a worker."""

    def __init__(self, channel: Channel, outbox: int = OUTBOX) -> None:
        self._channel = channel
        self._outbox: queue.Queue[tuple[bytes, int | None] | None] = queue.Queue(outbox)
        self._writing = threading.Lock()
        self._rest = b""
        """Of a frame that the socket took in part; it goes before all else."""
        self._thread = threading.Thread(target=self._run, name="samovar-sender", daemon=True)
        self.is_lost = threading.Event()
        """Nobody listens any more; whatever is given from now on goes nowhere."""

    def start(self) -> None:
        """Begin to send what does not go at once."""
        self._thread.start()

    def give(self, message: bytes, fd: int | None = None) -> None:
        """Send a message, and a descriptor that is closed here. Waits while the outbox is full."""
        if fd is None and self._is_sent_now(message):
            return
        while not self.is_lost.is_set():
            try:
                self._outbox.put((message, fd), timeout=1.0)
            except queue.Full:
                continue
            return
        if fd is not None:
            os.close(fd)

    def close(self, seconds: float) -> None:
        """Give what was given time to go."""
        self._outbox.put(None)
        self._thread.join(seconds)

    def _is_sent_now(self, message: bytes) -> bool:
        if not self._writing.acquire(blocking=False):
            return False
        try:
            # What is counted there is in the outbox, or in the hands of the thread.
            if self._outbox.unfinished_tasks or self._rest:
                return False
            rest = self._channel.write_some(message)
            if rest is None:
                self.is_lost.set()
                return True
            self._rest = rest
        finally:
            self._writing.release()
        if rest:
            self._outbox.put((b"", None))
        return True

    def _run(self) -> None:
        while (item := self._outbox.get()) is not None:
            message, fd = item
            fds = [] if fd is None else [fd]
            if not self._write(message, fds):
                self.is_lost.set()
            for one in fds:
                os.close(one)
            self._outbox.task_done()
        self._write(b"", [])

    def _write(self, message: bytes, fds: list[int]) -> bool:
        with self._writing:
            rest, self._rest = self._rest, b""
            is_sent = self._channel.write_rest(rest)
            return is_sent and (not message or self._channel.write(message, fds))
