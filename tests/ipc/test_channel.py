"""Frames over a socketpair: whatever the cuts, and whatever the other end says."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samovar.ipc.channel import MAX_FRAME, BrokenFrame, Channel, Frames, frame, receive


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(
    messages: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(map(frame, messages))
    frames, found, at = Frames(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 16))
        found += frames.feed(stream[at : at + size])
        at += size
    assert found == [(message, []) for message in messages]


def test_a_frame_that_claims_to_be_longer_than_any_is_refused_before_it_is_read() -> None:
    with pytest.raises(BrokenFrame, match="longer"):
        Frames().feed((MAX_FRAME + 1).to_bytes(4, "little") + b"\0")


def test_a_frame_without_its_descriptor_is_refused() -> None:
    with pytest.raises(BrokenFrame, match="descriptor"):
        Frames().feed(frame(b"x", 1))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Channel]]:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    yield ours, channel
    channel.close()
    ours.close()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_arrive_with_their_own_frames(pair: tuple[socket.socket, Channel]) -> None:
    ours, channel = pair
    sent = []
    for text in (b"one", b"two"):
        fd = os.memfd_create("test")
        os.write(fd, text)
        sent.append(fd)
    channel.write(b"none")
    channel.write(b"first", sent[:1])
    channel.write(b"second", sent[1:])
    for fd in sent:
        os.close(fd)
    frames, found = Frames(), []
    while len(found) < 3:
        found += frames.feed(*receive(ours))
    texts = [(message, [os.pread(fd, 10, 0) for fd in fds]) for message, fds in found]
    assert texts == [(b"none", []), (b"first", [b"one"]), (b"second", [b"two"])]
    for _, fds in found:
        for fd in fds:
            os.close(fd)


def test_the_end_of_the_other_side_is_the_end_of_the_stream(
    pair: tuple[socket.socket, Channel],
) -> None:
    ours, channel = pair
    ours.sendall(frame(b"last") + b"\x05\0")
    ours.close()
    assert channel.read() == b"last"
    assert channel.read() is None
    assert not channel.write(b"anyone?")


def test_a_large_message_passes_while_the_other_side_reads(
    pair: tuple[socket.socket, Channel],
) -> None:
    ours, channel = pair
    message = os.urandom(1 << 20) * 8
    writer = threading.Thread(target=channel.write, args=(message,))
    writer.start()
    frames, found = Frames(), []
    while not found:
        found += frames.feed(*receive(ours))
    writer.join()
    assert found == [(message, [])]


def test_nothing_stays_open(pair: tuple[socket.socket, Channel]) -> None:
    ours, channel = pair
    before = open_descriptors()
    fd = os.memfd_create("test")
    channel.write(b"x" * 100, [fd])
    os.close(fd)
    data, fds = receive(ours)
    frames = Frames()
    frames.feed(data[:10], fds)  # the rest never comes
    frames.close()
    channel.close()
    ours.close()
    assert open_descriptors() == before - 2
