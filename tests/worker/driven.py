"""A worker process and the other end of its socket, without a runtime."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from samovar.config import CacheConfig, WorkerConfig
from samovar.ipc import messages as ipc
from samovar.ipc.channel import Frames, frame, receive
from samovar.ipc.requests import Request, pack_request

REAL = (sys.executable, "-m", "samovar.worker")
WEIGHTLESS = (
    sys.executable,
    str(Path(__file__).parent.parent / "runtime" / "faulty_worker.py"),
)
PATIENCE = 120.0
"""Seconds: more than anything here takes, however busy the machine is."""

_T = TypeVar("_T")


class Driven:
    """Says and hears what a runtime would."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.process = process
        self._sock = sock
        self._frames = Frames()
        self._heard: list[ipc.Report] = []

    def say(self, *commands: ipc.Command) -> None:
        """Send commands, as one write."""
        self._sock.sendall(b"".join(frame(ipc.ENCODER.encode(one)) for one in commands))

    def say_bytes(self, data: bytes) -> None:
        """Send what is no command."""
        self._sock.sendall(data)

    def load(self, path: str, *, cache: CacheConfig | None = None, **worker: object) -> None:
        """Let it load a model, and wait until it has."""
        self.say(ipc.Load(path, WorkerConfig(**worker), cache))  # type: ignore[arg-type]
        self.hear(ipc.Ready)

    def submit(self, *requests: Request) -> None:
        """Send requests."""
        self.say(*(ipc.Submit(*pack_request(one)) for one in requests))

    def hear(self, kind: type[_T]) -> _T:
        """The next report of a kind; what comes before is left out."""
        while True:
            report = self.report()
            assert report is not None, "the worker has ended"
            if isinstance(report, kind):
                return report

    def report(self) -> ipc.Report | None:
        """The next report; None: it has ended."""
        while not self._heard:
            ready, _, _ = select.select([self._sock], [], [], PATIENCE)
            assert ready, "the worker says nothing"
            try:
                data, fds = receive(self._sock)
            except ConnectionError:
                return None
            if not data:
                return None
            for message, taken in self._frames.feed(data, fds):
                self._heard.append(ipc.REPORTS.decode(message))
                for fd in taken:
                    os.close(fd)
        return self._heard.pop(0)

    def rest(self) -> list[ipc.Report]:
        """Everything until it ends."""
        found = []
        while (report := self.report()) is not None:
            found.append(report)
        return found

    def hang_up(self) -> None:
        """Be gone, as a parent that was killed."""
        self._sock.close()

    def code(self) -> int:
        """How it ended."""
        return self.process.wait(PATIENCE)


@contextmanager
def driven(
    command: Sequence[str] = WEIGHTLESS, *, env: dict[str, str] | None = None
) -> Iterator[Driven]:
    """A worker that is there; it is killed at the end, if it still is."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [*command, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )
    theirs.close()
    try:
        yield Driven(process, ours)
    finally:
        process.kill()
        process.wait()
        ours.close()
