"""Handles: freed exactly once, and never before what depends on them."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import DataObject, data, integers, lists, none, sampled_from

from samovar.errors import Released
from samovar.native.handle import Handle
from tests.conftest import ROOT, scaled


@pytest.fixture
def freed() -> list[int]:
    """The pointers that were freed, in order."""
    return []


def make(freed: list[int], pointer: int, parent: Handle | None = None) -> Handle:
    return Handle(pointer, freed.append, "thing", parent=parent)


def test_a_handle_gives_its_pointer_until_it_is_closed(freed: list[int]) -> None:
    handle = make(freed, 7)
    assert handle.pointer == 7
    assert handle.is_open
    handle.close()
    assert freed == [7]
    assert not handle.is_open
    with pytest.raises(Released, match="thing"):
        _ = handle.pointer


def test_closing_twice_frees_once(freed: list[int]) -> None:
    handle = make(freed, 1)
    handle.close()
    handle.close()
    assert freed == [1]


def test_what_is_depended_on_is_freed_last(freed: list[int]) -> None:
    model = make(freed, 1)
    context = make(freed, 2, model)
    model.close()
    assert freed == []
    with pytest.raises(Released):  # closing: nothing new may use it
        _ = model.pointer
    with pytest.raises(Released):
        make(freed, 3, model)
    assert context.pointer == 2
    context.close()
    assert freed == [2, 1]


def test_what_nothing_depends_on_is_freed_at_once(freed: list[int]) -> None:
    model = make(freed, 1)
    make(freed, 2, model).close()
    assert freed == [2]
    model.close()
    assert freed == [2, 1]


def test_what_is_attached_is_freed_after_what_it_is_attached_to(freed: list[int]) -> None:
    model = make(freed, 1)
    context, adapter = make(freed, 2, model), make(freed, 3, model)
    context.attach([adapter])
    adapter.close()
    model.close()
    assert freed == []
    context.close()
    assert freed == [2, 3, 1]


def test_what_is_attached_can_be_exchanged(freed: list[int]) -> None:
    context, first, second = make(freed, 1), make(freed, 2), make(freed, 3)
    context.attach([first])
    context.attach([first, second])
    first.close()
    assert freed == []
    context.attach([second])
    assert freed == [2]
    second.close()
    context.attach([])
    assert freed == [2, 3]


def test_nothing_closed_can_be_attached(freed: list[int]) -> None:
    context, open_one, closed = make(freed, 1), make(freed, 2), make(freed, 3)
    closed.close()
    with pytest.raises(Released):
        context.attach([open_one, closed])
    open_one.close()
    assert freed == [3, 2]


class Owner:
    """Something that wraps a handle, as models and contexts do."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        handle.watch(self)


def test_collecting_the_owner_frees(freed: list[int]) -> None:
    owner = Owner(make(freed, 5))
    owner.handle.close()
    del owner
    gc.collect()
    assert freed == [5]
    owner = Owner(make(freed, 6))
    del owner
    gc.collect()
    assert freed == [5, 6]


def test_collecting_owners_in_a_cycle_frees_dependants_first(freed: list[int]) -> None:
    model = Owner(make(freed, 1))
    context = Owner(make(freed, 2, model.handle))
    model.context, context.model = context, model  # type: ignore[attr-defined]
    del model, context
    gc.collect()
    assert freed == [2, 1]


def test_what_was_borrowed_lives_as_long_as_the_handle() -> None:
    class Buffer:
        """Something that llama.cpp points into."""

    buffer = Buffer()
    alive = weakref.ref(buffer)
    handle = Handle(1, lambda _: None, "thing", borrowed=buffer)
    del buffer
    gc.collect()
    assert alive() is not None
    del handle
    gc.collect()
    assert alive() is None


AT_EXIT = """
import sys
from samovar.native.handle import Handle

class Owner:
    def __init__(self, name, parent=None):
        self.handle = Handle(len(name), lambda _: print(name), name, parent=parent)
        self.handle.watch(self)

model = Owner("model")
context = Owner("context", model.handle)
adapter = Owner("adapter", model.handle)
context.handle.attach([adapter.handle])
sys.modules["keep"] = {order}
"""


@pytest.mark.parametrize("order", ["[model, context, adapter]", "[context]", "[adapter, model]"])
def test_the_end_of_the_interpreter_frees_dependants_first(order: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT.replace("{order}", order)],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["context", "adapter", "model"]
    assert done.stderr == ""


def test_threads_that_close_at_once_free_once(freed: list[int]) -> None:
    for pointer in range(scaled(50, 1000)):
        parent = make(freed, -1 - pointer)
        children = [make(freed, pointer, parent) for _ in range(3)]
        run_together([handle.close for handle in [*children, *children, parent, parent]])
        assert freed == [*[pointer] * 3, -1 - pointer]
        freed.clear()


def run_together(calls: list[Callable[[], None]]) -> None:
    gate = threading.Barrier(len(calls))

    def wait_and_call(call: Callable[[], None]) -> None:
        gate.wait()
        call()

    threads = [threading.Thread(target=wait_and_call, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Lives(RuleBasedStateMachine):
    """Any order of making, attaching and closing."""

    def __init__(self) -> None:
        super().__init__()
        self.freed: list[int] = []
        self.handles: list[Handle] = []
        self.parents: dict[int, int | None] = {}
        self.attached: dict[int, list[int]] = {}

    def alive(self) -> list[int]:
        return [i for i, handle in enumerate(self.handles) if handle.is_open]

    @rule(data=data())
    def open_one(self, data: DataObject) -> None:
        alive = self.alive()
        parent = data.draw(sampled_from(alive) if alive else none())
        number = len(self.handles)
        over = None if parent is None else self.handles[parent]
        self.handles.append(make(self.freed, number, over))
        self.parents[number] = parent

    @precondition(lambda self: self.handles)
    @rule(data=data())
    def close(self, data: DataObject) -> None:
        self.handles[data.draw(integers(0, len(self.handles) - 1))].close()

    @precondition(lambda self: self.alive())
    @rule(data=data())
    def attach(self, data: DataObject) -> None:
        alive = self.alive()
        one = data.draw(sampled_from(alive))
        younger = [i for i in alive if i > one]
        others = data.draw(lists(sampled_from(younger), max_size=3)) if younger else []
        self.handles[one].attach([self.handles[i] for i in others])
        self.attached[one] = others

    @invariant()
    def each_is_freed_once_and_after_its_dependants(self) -> None:
        assert len(set(self.freed)) == len(self.freed)
        for number in range(len(self.handles)):
            needed = number not in self.freed
            parent = self.parents[number]
            if needed and parent is not None:
                assert parent not in self.freed
            if needed:
                assert not set(self.attached.get(number, [])) & set(self.freed)

    @invariant()
    def what_is_closed_and_free_of_dependants_is_freed(self) -> None:
        for number, handle in enumerate(self.handles):
            if handle.is_open:
                assert number not in self.freed
            elif not self.has_dependants(number):
                assert number in self.freed

    def has_dependants(self, number: int) -> bool:
        alive = [i for i in range(len(self.handles)) if i not in self.freed]
        return any(self.parents[i] == number or number in self.attached.get(i, []) for i in alive)


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=scaled(60, 400), stateful_step_count=25, database=None, deadline=None
)
