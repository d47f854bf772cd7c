"""JSON values over a pipe, each as four bytes of length (big-endian) and that many of ASCII.

A deadline is a time of `time.monotonic`; None waits for ever. With one, the pipe must be
non-blocking.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time

from samovar.chat.messages import Json

MAX_FRAME = 256 * 2**20
"""Bytes of one frame. What a prompt of the greatest length needs, in six-byte escapes."""

_CHUNK = 2**20
_LENGTH = struct.Struct(">I")


class FrameTooLongError(Exception):
    """A frame announces, or would be of, more than MAX_FRAME bytes."""


def write_frame(pipe: int, value: object, deadline: float | None = None) -> None:
    """Raises TimeoutError, BrokenPipeError and FrameTooLongError (nothing written then)."""
    body = json.dumps(value).encode("ascii")
    if len(body) > MAX_FRAME:
        raise FrameTooLongError
    rest = memoryview(_LENGTH.pack(len(body)) + body)
    while rest:
        _await(pipe, select.POLLOUT, deadline)
        rest = rest[os.write(pipe, rest[:_CHUNK]) :]


def read_frame(pipe: int, deadline: float | None = None) -> Json:
    """Raises EOFError when the other end closed, TimeoutError and FrameTooLongError."""
    (length,) = _LENGTH.unpack(_read(pipe, _LENGTH.size, deadline))
    if length > MAX_FRAME:
        raise FrameTooLongError
    return json.loads(_read(pipe, length, deadline))


def _read(pipe: int, length: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < length:
        _await(pipe, select.POLLIN, deadline)
        piece = os.read(pipe, min(_CHUNK, length - len(data)))
        if not piece:
            raise EOFError("the other end closed")
        data += piece
    return bytes(data)


def _await(pipe: int, event: int, deadline: float | None) -> None:
    if deadline is None:
        return
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError("the other end took too long")
