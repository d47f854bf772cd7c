"""Memory for blobs: nobody gets what somebody still refers to, and it never comes to too much."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samovar.native.scratch import Scratch


def lent(scratch: Scratch, nbytes: int) -> np.ndarray:
    found = scratch.lend(nbytes)
    assert found is not None
    return found


def address(data: np.ndarray) -> int:
    return int(data.ctypes.data)


@given(st.lists(st.tuples(st.integers(1, 3000), st.booleans(), st.integers(0, 10**6)), max_size=60))
def test_what_is_in_use_is_nobody_elses(steps: list[tuple[int, bool, int]]) -> None:
    scratch = Scratch(8000)
    held: list[tuple[np.ndarray, int]] = []
    for number, (nbytes, keeps, which) in enumerate(steps):
        data = scratch.lend(nbytes)
        if data is None:
            assert held  # with nothing lent, there is room
        else:
            assert data.nbytes == nbytes
            data[:] = number % 251
            held.append((data[nbytes // 2 :].reshape(1, -1), number % 251))
            del data
        if held and not keeps:
            held.pop(which % len(held))
        assert all((part == mark).all() for part, mark in held)
        assert scratch.nbytes <= 8000


def test_what_nobody_refers_to_is_lent_again() -> None:
    scratch = Scratch()
    data = lent(scratch, 1000)
    place, size = address(data), scratch.nbytes
    view = data[10:20]
    del data
    other = lent(scratch, 1000)
    assert address(other) != place  # somebody looks at a part of it
    del view, other
    assert scratch.nbytes == 2 * size
    assert place in {address(one) for one in (lent(scratch, 1000), lent(scratch, 900))}
    assert scratch.nbytes == 2 * size


def test_one_that_is_too_small_gives_way() -> None:
    scratch = Scratch(10_000)
    small = lent(scratch, 4000)
    del small
    large = lent(scratch, 8500)
    assert large.nbytes == 8500
    assert scratch.nbytes <= 10_000
    assert scratch.lend(4000) is None
    del large
    assert lent(scratch, 10_000).nbytes == 10_000


def test_one_that_is_larger_than_all_may_be_is_lent_alone_and_not_kept() -> None:
    scratch = Scratch(10_000)
    small = lent(scratch, 1000)
    assert scratch.lend(10_001) is None
    del small
    huge = lent(scratch, 20_000)
    assert scratch.nbytes == 20_000
    assert scratch.lend(1) is None
    del huge
    assert scratch.nbytes == 0
    assert lent(scratch, 1000).nbytes == 1000


def test_a_little_more_is_taken_than_was_asked_for() -> None:
    scratch = Scratch()
    place = address(lent(scratch, 8000))
    assert address(lent(scratch, 8900)) == place


def test_no_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    scratch = Scratch()
    monkeypatch.setattr(np, "empty", refuse)
    assert scratch.lend(1000) is None
    assert scratch.nbytes == 0


def test_another_thread_may_let_go() -> None:
    scratch = Scratch(1200)
    held = [lent(scratch, 1000)]
    assert scratch.lend(1000) is None
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert lent(scratch, 1000).nbytes == 1000


def test_what_is_let_go_of_while_buffers_are_looked_through_comes_back() -> None:
    """The collector may run at any allocation, and drop what hangs in a circle."""
    scratch = Scratch(1200)
    gc.disable()
    try:
        circle: list[object] = [lent(scratch, 1000)]
        circle.append(circle)
        del circle
        with scratch._lock:  # noqa: SLF001 - where it would have to run to do harm
            gc.collect()
    finally:
        gc.enable()
    assert lent(scratch, 1000).nbytes == 1000
