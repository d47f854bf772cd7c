"""How threads wait: the switch itself, and when it is turned."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import pytest

from samovar.native import waiting
from samovar.native.context import ContextOptions
from samovar.native.llama import LlamaBackend
from samovar.native.waiting import Sleepers, Waiting, interruptions, others_busy, run_delay
from tests.conftest import Models


class Machine:
    """Seconds that pass, and how long threads were kept from running meanwhile."""

    def __init__(self) -> None:
        self.now = 100.0
        self.delayed = 5.0
        self.others = 50.0
        self.company = 0.0
        """Cores that others use."""
        self.interruptions = 7
        self.looks = 0

    def calls(self, one: Waiting, seconds: float, share: float, threads: int = 2) -> None:
        """Decode calls of 10 ms for so long, in which threads missed such a share of the time."""
        for _ in range(round(seconds / 0.01)):
            one.before()
            self.now += 0.01
            self.delayed += share * threads * 0.01
            self.others += self.company * 0.01
            self.interruptions += share > 0
            one.after(0.01)

    def look(self) -> float:
        """How long threads were kept from running."""
        self.looks += 1
        return self.delayed


def made(machine: Machine, threads: int = 2) -> Waiting:
    return Waiting(
        threads,
        machine.look,
        lambda: machine.now,
        lambda: machine.others,
        lambda: machine.interruptions,
    )


def threads_of_this_process() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_sleepers_are_more_threads_than_there_are_cores_and_go_when_told() -> None:
    before = threads_of_this_process()
    sleepers = Sleepers()
    assert threads_of_this_process() > before + (os.cpu_count() or 1)
    sleepers.close()
    sleepers.close()
    deadline = time.monotonic() + 60  # they end once their maker has, by themselves
    while threads_of_this_process() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_the_kernel_says_only_goes_up() -> None:
    first = run_delay()
    assert first is not None
    assert run_delay() >= first


def test_alone_threads_spin_after_a_moment() -> None:
    machine = Machine()
    one = made(machine)
    one.before()
    assert not one.is_spinning, "the first call may be in company"
    machine.calls(one, 0.5, 0.0)
    assert one.is_spinning
    one.close()


def test_in_company_they_sleep_and_try_again_more_and_more_rarely() -> None:
    machine = Machine()
    one = made(machine)
    machine.calls(one, 0.5, 0.0)
    pauses = []
    for _ in range(4):
        machine.calls(one, 0.15, 0.5)
        assert not one.is_spinning
        began = machine.now
        while not one.is_spinning:
            machine.calls(one, 0.05, 0.0)
        pauses.append(machine.now - began)
    assert pauses == sorted(pauses)
    assert pauses[-1] > 3 * pauses[0]
    one.close()


def test_after_a_long_calm_the_next_pause_is_short_again() -> None:
    machine = Machine()
    one = made(machine)
    machine.calls(one, 0.5, 0.0)
    for _ in range(5):
        machine.calls(one, 0.1, 0.5)
        machine.calls(one, 20.0, 0.0)
    machine.calls(one, 700.0, 0.0)
    machine.calls(one, 0.1, 0.5)
    began = machine.now
    while not one.is_spinning:
        machine.calls(one, 0.05, 0.0)
    assert machine.now - began < 2.0
    one.close()


def test_a_little_company_changes_nothing() -> None:
    machine = Machine()
    one = made(machine)
    machine.calls(one, 0.5, 0.0)
    machine.calls(one, 1.0, 0.1)
    assert one.is_spinning
    machine.calls(one, 0.1, 0.5)
    machine.calls(one, 5.0, 0.1)
    assert not one.is_spinning
    one.close()


def test_sleepers_that_are_never_kept_waiting_sleep_on_while_others_have_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    machine = Machine()
    one = made(machine)
    machine.company = 1.0
    machine.calls(one, 20.0, 0.0)
    assert not one.is_spinning
    machine.company = 0.1
    machine.calls(one, 1.0, 0.0)
    assert one.is_spinning
    one.close()


def test_while_nobody_interrupts_the_threads_are_rarely_asked() -> None:
    machine = Machine()
    one = made(machine)
    machine.calls(one, 1.0, 0.0)
    assert one.is_spinning
    before = machine.looks
    machine.calls(one, 10.0, 0.0)
    assert 5 < machine.looks - before < 30
    machine.calls(one, 0.2, 0.5)
    assert not one.is_spinning
    one.close()


def test_who_has_to_make_room_is_counted() -> None:
    first = interruptions()
    assert interruptions() >= first >= 0


def test_others_are_counted_without_this_process() -> None:
    first = others_busy()
    assert first is not None
    assert first > 0


def test_one_thread_waits_for_nobody() -> None:
    machine = Machine()
    one = made(machine, threads=1)
    machine.calls(one, 1.0, 0.9, threads=1)
    assert one.is_spinning


def test_without_the_kernels_numbers_nothing_is_turned() -> None:
    one = Waiting(2, lambda: None)
    one.before()
    one.after(1.0)
    assert one.is_spinning


def test_a_context_leaves_no_threads_of_its_own_behind(models: Models) -> None:
    before = threads_of_this_process()
    options = ContextOptions(context_length=64, threads=2)
    with LlamaBackend.open(models(), context=options) as backend:
        backend.prefill([1, 2, 3])
        assert threads_of_this_process() > before
    gc.collect()
    assert not [one for one in waiting.threading.enumerate() if "sleepers" in one.name]
