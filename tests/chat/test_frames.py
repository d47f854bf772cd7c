"""Frames over real pipes, with another end that does not keep to the rules."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import pytest

from samovar.chat.frames import MAX_FRAME, FrameTooLongError, read_frame, write_frame

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(end)


def soon() -> float:
    return time.monotonic() + 0.05


def test_what_is_written_is_read(pipe: Pipe) -> None:
    value = {"text": "\u00e9\0\U0001f600", "numbers": [1, -2.5, None, True]}
    write_frame(pipe[1], value)
    assert read_frame(pipe[0]) == value


def test_a_frame_that_announces_too_much_is_not_waited_for(pipe: Pipe) -> None:
    os.write(pipe[1], (MAX_FRAME + 1).to_bytes(4, "big"))
    with pytest.raises(FrameTooLongError):
        read_frame(pipe[0])


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\0\x09{}"])
def test_a_frame_that_ends_too_soon_is_an_end(pipe: Pipe, data: bytes) -> None:
    os.write(pipe[1], data)
    os.close(pipe[1])
    with pytest.raises(EOFError):
        read_frame(pipe[0])


@pytest.mark.parametrize("data", [b"", b"\0\0\0\x09{}"])
def test_a_frame_that_does_not_come_is_a_timeout(pipe: Pipe, data: bytes) -> None:
    os.set_blocking(pipe[0], False)
    os.write(pipe[1], data)
    with pytest.raises(TimeoutError):
        read_frame(pipe[0], soon())


def test_a_reader_that_takes_nothing_is_a_timeout(pipe: Pipe) -> None:
    os.set_blocking(pipe[1], False)
    with pytest.raises(TimeoutError):
        write_frame(pipe[1], "x" * 2**20, soon())


@pytest.mark.parametrize("body", [b"{", b"\xff"])
def test_what_is_no_json_is_a_value_error(pipe: Pipe, body: bytes) -> None:
    os.write(pipe[1], len(body).to_bytes(4, "big") + body)
    with pytest.raises(ValueError, match=r"Expecting property name|can't decode byte"):
        read_frame(pipe[0])
