"""Frames over a socketpair: four bytes of length, one of descriptors that come along, the message.

The socket has no name that anyone else could open, and ends with either process: that a parent or
a worker is gone is the end of its stream, however it died.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence

_HEAD = struct.Struct("<IB")
MAX_FRAME = 2**28  # bytes; prompts of a million tokens take four, and arrays go by descriptor
_MAX_FDS = 4
_READ = 2**18


class BrokenFrame(Exception):
    """The other end says what no end of this version says."""


class Frames:
    """Cuts a stream of bytes into frames. Descriptors belong to the frame that counts them."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._fds: deque[int] = deque()

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[tuple[bytes, list[int]]]:
        """The frames that are complete now. Raises BrokenFrame."""
        self._data += data
        self._fds.extend(fds)
        found, at = [], 0
        while len(self._data) - at >= _HEAD.size:
            length, count = _HEAD.unpack_from(self._data, at)
            if length > MAX_FRAME or count > _MAX_FDS:
                raise BrokenFrame("a frame is longer than any message")
            end = at + _HEAD.size + length
            if len(self._data) < end:
                break
            if count > len(self._fds):
                raise BrokenFrame("a descriptor did not come with its frame")
            taken = [self._fds.popleft() for _ in range(count)]
            found.append((bytes(self._data[at + _HEAD.size : end]), taken))
            at = end
        del self._data[:at]
        return found

    def close(self) -> None:
        """Close descriptors of frames that never were complete."""
        while self._fds:
            os.close(self._fds.popleft())


def frame(message: bytes, num_fds: int = 0) -> bytes:
    """A message as it is sent."""
    return _HEAD.pack(len(message), num_fds) + message


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Bytes and descriptors that have come; no bytes: the other end is gone."""
    space = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
    data, ancillary, _, _ = sock.recvmsg(_READ, space, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


class Channel:
    """The worker's end: blocking, one thread reads and one writes."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(None)
        self._sock = sock
        self._frames = Frames()
        self._ready: deque[bytes] = deque()

    def read(self) -> bytes | None:
        """The next message; None: the other end is gone. Raises BrokenFrame."""
        while not self._ready:
            try:
                data, fds = receive(self._sock)
            except ConnectionError:
                return None
            if not data:
                return None
            for message, taken in self._frames.feed(data, fds):
                for fd in taken:  # a worker is sent none
                    os.close(fd)
                self._ready.append(message)
        return self._ready.popleft()

    def write(self, message: bytes, fds: Sequence[int] = ()) -> bool:
        """Send a message, and descriptors that stay open here. False: the other end is gone."""
        data = memoryview(frame(message, len(fds)))
        try:
            sent = socket.send_fds(self._sock, [data], list(fds)) if fds else 0
            self._sock.sendall(data[sent:])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End the stream."""
        self._frames.close()
        self._sock.close()
