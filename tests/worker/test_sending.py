"""Frames arrive whole and in the order in which they were given, however slowly they are read."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from samovar.ipc.channel import Channel, Frames, receive
from samovar.worker.sending import Sender
from tests.conftest import scaled
from tests.worker.driven import PATIENCE


class Reader:
    """The other end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._frames = Frames()
        sock.settimeout(PATIENCE)

    def read(self, count: int) -> list[tuple[bytes, list[int]]]:
        """As many frames, or all until the end."""
        found: list[tuple[bytes, list[int]]] = []
        while len(found) < count:
            data, fds = receive(self.sock)
            if not data:
                break
            found += self._frames.feed(data, fds)
        return found


@pytest.fixture
def ends() -> Iterator[tuple[Sender, Reader]]:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with ours, theirs:
        sender = Sender(Channel(ours), outbox=8)
        yield sender, Reader(theirs)
        theirs.close()
        sender.close(PATIENCE)


def numbered(giver: int, number: int) -> bytes:
    return b"%d %d " % (giver, number) + b"x" * (number * 37 % 9000)


def test_what_the_socket_takes_needs_no_thread(ends: tuple[Sender, Reader]) -> None:
    sender, reader = ends
    sender.give(b"a")
    sender.give(b"b")
    assert [message for message, _ in reader.read(2)] == [b"a", b"b"]
    sender.start()


def test_givers_keep_their_order_whatever_the_socket_takes(ends: tuple[Sender, Reader]) -> None:
    sender, reader = ends
    count = scaled(300, 3000)
    sender.start()

    def give(giver: int) -> None:
        for number in range(count):
            sender.give(numbered(giver, number))

    givers = [threading.Thread(target=give, args=(giver,)) for giver in range(3)]
    for one in givers:
        one.start()
    found = [message for message, _ in reader.read(3 * count)]
    for one in givers:
        one.join(PATIENCE)
    for giver in range(3):
        own = [message for message in found if message.startswith(b"%d " % giver)]
        assert own == [numbered(giver, number) for number in range(count)]


def test_descriptors_come_with_their_frame(ends: tuple[Sender, Reader]) -> None:
    sender, reader = ends
    sender.start()

    def give() -> None:
        for number in range(20):
            fd = os.memfd_create("test")
            os.write(fd, b"%d" % number)
            sender.give(numbered(0, number))
            sender.give(b"with", fd)

    giver = threading.Thread(target=give)
    giver.start()
    found = reader.read(40)
    giver.join(PATIENCE)
    assert [message for message, _ in found[::2]] == [numbered(0, number) for number in range(20)]
    for number, (message, fds) in enumerate(found[1::2]):
        assert message == b"with"
        (fd,) = fds
        assert os.pread(fd, 9, 0) == b"%d" % number
        os.close(fd)


def test_what_was_given_before_the_end_is_sent(ends: tuple[Sender, Reader]) -> None:
    sender, reader = ends
    sender.start()
    sender.give(b"y" * 100_000)
    closing = threading.Thread(target=sender.close, args=(PATIENCE,))
    closing.start()
    assert [message for message, _ in reader.read(1)] == [b"y" * 100_000]
    closing.join(PATIENCE)


def test_who_gives_does_not_wait_for_nobody(ends: tuple[Sender, Reader]) -> None:
    sender, reader = ends
    sender.start()
    reader.sock.close()
    for number in range(50):
        sender.give(numbered(0, number))
        sender.give(b"", os.memfd_create("test"))
    assert sender.is_lost.is_set()
