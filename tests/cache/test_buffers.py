"""Memory that is lent: nobody gets what somebody still refers to, and little is kept."""

from __future__ import annotations

import gc
import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from samovar.cache.files.buffers import Buffers


def address(data: memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).ctypes.data)


@given(st.lists(st.tuples(st.integers(1, 3000), st.booleans(), st.integers(0, 10**6)), max_size=60))
def test_what_is_in_use_is_nobody_elses(steps: list[tuple[int, bool, int]]) -> None:
    buffers = Buffers(spare_bytes=8000)
    held: list[tuple[memoryview, int]] = []
    for number, (nbytes, keeps, which) in enumerate(steps):
        data = buffers.take(nbytes)
        assert data.nbytes == nbytes
        assert address(data) % 64 == 0
        mark = number % 251
        data[:] = bytes([mark]) * nbytes
        held.append((data[nbytes // 2 :], mark))  # a part of it keeps all of it
        del data
        if not keeps:
            held.pop(which % len(held))
        assert all(bytes(part) == bytes([mark]) * len(part) for part, mark in held)
        assert buffers.free_bytes <= 8000


def test_what_nobody_refers_to_is_lent_again() -> None:
    buffers = Buffers()
    first, second = buffers.take(1000), buffers.take(1000)
    places = {address(first), address(second)}
    assert buffers.free_bytes == 0
    rows = np.frombuffer(second, np.uint8)[10:20]
    del first, second
    assert buffers.free_bytes == 1000  # the second has a reader
    del rows
    assert buffers.free_bytes == 2000
    assert {address(one) for one in (buffers.take(1000), buffers.take(1000))} == places


def test_a_buffer_is_not_much_larger_than_what_is_put_into_it() -> None:
    buffers = Buffers()
    large = buffers.take(1000)
    del large
    small = buffers.take(500)
    assert buffers.free_bytes == 1000
    close = buffers.take(900)
    assert buffers.free_bytes == 0
    assert (small.nbytes, close.nbytes) == (500, 900)


def test_what_nobody_wants_gives_way_to_what_is_wanted() -> None:
    buffers = Buffers(spare_bytes=2500)
    old = [buffers.take(1000), buffers.take(1000)]
    old.clear()
    assert buffers.free_bytes == 2000
    for _ in range(2):  # each one that fits nothing lets the oldest go
        other = buffers.take(2000)
        del other
    place = address(other := buffers.take(2000))
    del other
    assert buffers.free_bytes == 2000
    assert address(buffers.take(2000)) == place


def test_more_than_may_be_kept_goes_back_to_the_system() -> None:
    buffers = Buffers(spare_bytes=2500)
    held = [buffers.take(1000) for _ in range(5)]
    held.clear()
    assert buffers.free_bytes == 2000


def test_another_thread_may_let_go() -> None:
    buffers = Buffers()
    held = [buffers.take(1000)]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert buffers.free_bytes == 1000


def test_what_is_let_go_of_while_buffers_are_looked_through_comes_back() -> None:
    """The collector may run at any allocation, and drop what hangs in a circle."""
    buffers = Buffers()
    gc.disable()
    try:
        circle: list[object] = [buffers.take(1000)]
        circle.append(circle)
        del circle
        with buffers._lock:  # noqa: SLF001 - where it would have to run to do harm
            gc.collect()
    finally:
        gc.enable()
    assert buffers.free_bytes == 1000
