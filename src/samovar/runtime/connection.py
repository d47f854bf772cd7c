"""The runtime's end of a worker's socket: never blocks the event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from samovar.errors import InvalidRequest, Overloaded
from samovar.ipc import messages as ipc
from samovar.ipc.channel import BrokenFrame, Frames, frame, receive

MAX_UNSENT = 2**28  # bytes: a worker that reads nothing is stuck, and is found out by its heartbeat

OnReport = Callable[[ipc.Report, list[int]], None]


class Connection:
    """Sends commands and hands reports on, in order, until the other end is gone.

    `on_broken` is called when the other end says what nobody of this version says.
    """

    def __init__(
        self, sock: socket.socket, on_report: OnReport, on_broken: Callable[[], None]
    ) -> None:
        sock.setblocking(False)  # noqa: FBT003 - the socket's own signature
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._on_report = on_report
        self._on_broken = on_broken
        self._frames = Frames()
        self._unsent = bytearray()
        self._is_closed = False
        self._received = 0
        self._loop.add_reader(sock, self._read)

    def send(self, command: ipc.Command) -> None:
        """Send a command. Nothing happens when the other end is gone: that is found out anyway.

        Raises Overloaded when the worker does not read what it is sent, and InvalidRequest for
        what no message can hold.
        """
        if self._is_closed:
            return
        try:
            data = frame(ipc.ENCODER.encode(command))
        except (OverflowError, ValueError, TypeError, RecursionError) as error:
            kind = type(error).__name__  # its text may hold what was asked
            text = "the request holds a number beyond 64 bits, or text that is not Unicode"
            raise InvalidRequest(f"{text} ({kind}); leave it out") from None
        if len(self._unsent) + len(data) > MAX_UNSENT:
            raise Overloaded("the worker takes nothing in; try again later")
        was_empty = not self._unsent
        self._unsent += data
        if was_empty:
            self._write()

    def drain(self) -> None:
        """Hand on what has arrived and was not read yet: the other end is gone."""
        while not self._is_closed:
            before = self._received
            self._read()
            if self._received == before:
                return

    def close(self) -> None:
        """End it. Idempotent; nothing is reported any more."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._frames.close()
            self._sock.close()

    def _read(self) -> None:
        try:
            data, fds = receive(self._sock)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self.close()
            return
        self._received += len(data)
        try:
            found = self._frames.feed(data, fds)
        except BrokenFrame:
            self._break()
            return
        for message, taken in found:
            self._hand_on(message, taken)

    def _hand_on(self, message: bytes, fds: list[int]) -> None:
        try:
            report = ipc.REPORTS.decode(message)
        except ValueError:
            self._break()
        else:
            self._on_report(report, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _break(self) -> None:
        self.close()
        self._on_broken()

    def _write(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._unsent.clear()
            self._loop.remove_writer(self._sock)
            return  # the reader sees the end
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._sock, self._write)
        else:
            self._loop.remove_writer(self._sock)
