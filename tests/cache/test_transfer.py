"""The i/o thread: what it does first, what it refuses, and that nothing ends it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeGuard

import pytest

from samovar.cache.block import Block
from samovar.cache.files.names import Name, name_of
from samovar.cache.files.outcomes import Published
from samovar.cache.files.tier import FileTier
from samovar.cache.index.node import Tier
from samovar.cache.transfer import Completion, Found, Read, ReadDone, Transfer, WriteDone
from tests.cache.directories import MODEL, chain, file_of, names, same, tier
from tests.engine.cached import FLUSH_SECONDS, HandTransfer

DISK = Tier.DISK


class Slow(FileTier):
    """Waits before it publishes or reads, until it is let go on; notes what it did."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self.may_go_on = threading.Event()
        self.has_come = threading.Event()
        self.done: list[str] = []

    def publish(self, blocks: Sequence[Block], *, evict: Sequence[Name] = ()) -> Published:
        self.has_come.set()
        assert self.may_go_on.wait(FLUSH_SECONDS)
        self.done.append(f"published {len(blocks)}")
        return super().publish(blocks, evict=evict)

    def read(self, name: Name, namespace: bytes, buffer: memoryview | None = None) -> Block:
        self.has_come.set()
        assert self.may_go_on.wait(FLUSH_SECONDS)
        self.done.append("read")
        return super().read(name, namespace, buffer)


@pytest.fixture
def files(tmpfs: Path) -> Iterator[Slow]:
    made = Slow(tmpfs, MODEL, 2**30, is_durable=False)
    made.open()
    yield made
    made.may_go_on.set()
    made.close()


@pytest.fixture
def transfer(files: Slow) -> Iterator[Transfer]:
    made = Transfer({DISK: files}, 2**26)
    yield made
    files.may_go_on.set()
    made.close(FLUSH_SECONDS)


def _wait_for(event: threading.Event) -> None:
    assert event.wait(FLUSH_SECONDS)


def drained(transfer: Transfer) -> list[Completion]:
    assert transfer.flush(FLUSH_SECONDS)
    return transfer.completions()


def write(transfer: Transfer, blocks: Sequence[Block]) -> list[bool]:
    return [transfer.write(DISK, block) for block in blocks]


def read(transfer: Transfer, blocks: Sequence[Block]) -> None:
    for ticket, block in enumerate(blocks):
        transfer.read([Read(ticket, DISK, name_of(block.head), MODEL.digest)])


def test_what_is_written_is_read(transfer: Transfer, files: Slow) -> None:
    files.may_go_on.set()
    blocks = chain(5)
    assert all(write(transfer, blocks))
    done = [one for one in drained(transfer) if isinstance(one, WriteDone)]
    assert [e.name for one in done for e in one.published.done] == names(blocks)
    assert done[-1].used_bytes == files.used_bytes()
    assert transfer.queued_bytes == 0
    read(transfer, blocks)
    found = drained(transfer)
    assert [one.ticket for one in found if isinstance(one, ReadDone)] == list(range(5))
    assert all(
        isinstance(one, ReadDone) and one.block is not None and same(one.block, block)
        for one, block in zip(found, blocks, strict=True)
    )


def test_reads_and_small_things_go_before_writes_and_writes_in_groups(
    transfer: Transfer, files: Slow
) -> None:
    first, *blocks = chain(80)
    write(transfer, [first])
    assert files.has_come.wait(FLUSH_SECONDS)  # the thread stands before the first one
    write(transfer, blocks)
    transfer.do(lambda: files.done.append("something small"))
    read(transfer, [first])
    files.may_go_on.set()
    drained(transfer)
    assert files.done == [
        "published 1",
        "read",
        "something small",
        "published 32",
        "published 32",
        "published 15",
    ]


def test_the_queue_holds_so_many_bytes_and_no_more(files: Slow) -> None:
    blocks = chain(20, 1000)
    transfer = Transfer({DISK: files}, 8000)
    taken = write(transfer, blocks)
    assert 4 <= sum(taken) <= 8
    assert taken == sorted(taken, reverse=True)
    assert 0 < transfer.queued_bytes <= 8000
    assert not transfer.has_room(blocks[-1])
    files.may_go_on.set()
    drained(transfer)
    assert transfer.has_room(blocks[-1])
    assert transfer.queued_bytes == 0
    assert not transfer.write(Tier.SHM, blocks[0])  # there is no such tier
    assert transfer.close(FLUSH_SECONDS)
    assert not transfer.write(DISK, blocks[0])


def test_waiting_ends_when_something_comes_and_when_nothing_will(
    transfer: Transfer, files: Slow
) -> None:
    transfer.wait(FLUSH_SECONDS)  # nothing is under way
    files.may_go_on.set()
    write(transfer, chain(1))
    while not (found := transfer.completions()):
        transfer.wait(FLUSH_SECONDS)
    assert isinstance(found[0], WriteDone)


def test_flushing_and_closing_say_when_their_time_was_not_enough(
    transfer: Transfer, files: Slow
) -> None:
    write(transfer, chain(1))
    write(transfer, chain(40, seed=1))
    assert files.has_come.wait(FLUSH_SECONDS)
    assert not transfer.flush(0.01)
    threading.Timer(0.1, files.may_go_on.set).start()
    assert not transfer.close(0.01)  # what had not begun is dropped
    assert len(files.done) <= 1


@pytest.mark.parametrize("what", ["a job", "a publication", "a read"])
def test_what_fails_though_nothing_should_does_not_end_the_thread(
    transfer: Transfer, files: Slow, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    files.may_go_on.set()
    first, second = chain(2)
    write(transfer, [first])
    drained(transfer)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    kept: Callable[..., object]
    with caplog.at_level(logging.ERROR):
        if what == "a job":
            transfer.do(fail)
            assert drained(transfer) == []
        elif what == "a publication":
            kept, files.publish = files.publish, fail  # type: ignore[assignment,method-assign]
            write(transfer, [second])
            [done] = drained(transfer)
            files.publish = kept  # type: ignore[assignment,method-assign]
            assert isinstance(done, WriteDone)
            assert [cause for _, cause in done.published.refused] == ["internal"]
        else:
            kept, files.read = files.read, fail  # type: ignore[assignment,method-assign]
            read(transfer, [first])
            [back] = drained(transfer)
            files.read = kept  # type: ignore[assignment,method-assign]
            assert isinstance(back, ReadDone)
            assert (back.block, back.cause) == (None, "internal")
    assert "a bug" in caplog.text
    assert transfer.queued_bytes == 0
    read(transfer, [first])
    [back] = drained(transfer)
    assert isinstance(back, ReadDone)
    assert back.block is not None


def test_a_read_says_why_there_is_nothing(transfer: Transfer, files: Slow) -> None:
    files.may_go_on.set()
    blocks = chain(3)
    write(transfer, blocks)
    drained(transfer)
    file_of(files, blocks[0]).unlink()
    data = bytearray(file_of(files, blocks[1]).read_bytes())
    data[-1] ^= 1
    file_of(files, blocks[1]).write_bytes(data)
    read(transfer, blocks)
    found = [one for one in drained(transfer) if isinstance(one, ReadDone)]
    assert [one.cause for one in found] == ["vanished", "contents", ""]


def test_nothing_is_written_behind_what_was_refused_however_far(tmpfs: Path) -> None:
    small = FileTier(tmpfs, MODEL, 60_000, is_durable=False)
    small.open()
    transfer, may_go_on = Transfer({DISK: small}, 2**26), threading.Event()
    try:
        first, *rest = chain(1, 100_000)
        assert not rest
        assert write(transfer, [first]) == [True]
        drained(transfer)
        transfer.do(partial(_wait_for, may_go_on))
        behind = chain(3, 100, after=first)
        assert all(write(transfer, behind))  # one group: the thread is kept from it meanwhile
        may_go_on.set()
        [done] = [one for one in drained(transfer) if isinstance(one, WriteDone)]
        assert [one.cause for one in done.published.refused] == ["parent"] * 3
        assert not done.published.done
    finally:
        may_go_on.set()
        transfer.close(FLUSH_SECONDS)
        small.close()


def test_what_is_not_needed_goes_for_those_behind_it(tmpfs: Path) -> None:
    """Room is made in the order in which it was offered, over groups, until it is spared."""
    files = tier(tmpfs, budget=100_000, is_durable=False)
    files.open()
    old = chain(3, seed=1)
    files.publish(old)
    room = (100_000 - files.used_bytes()) // 12_288
    new = chain(room + 2, 8000, seed=2)
    transfer = HandTransfer({DISK: files}, 2**26)
    for block in new[:room]:
        transfer.write(DISK, block, tuple(names(old[::-1])) if block is new[0] else ())
    transfer.work()
    assert [one.published.evicted for one in transfer.completions() if is_write(one)] == [[]]
    transfer.write(DISK, new[room])
    transfer.work()
    assert [
        e for one in transfer.completions() if is_write(one) for e in one.published.evicted
    ] == [*names(old[:1:-1])]
    transfer.spare(DISK)
    transfer.write(DISK, new[room + 1])
    transfer.work()
    [last] = transfer.completions()
    assert is_write(last)
    assert last.published.evicted == []
    assert [cause for _, cause in last.published.refused] == ["budget"]


def is_write(one: Completion) -> TypeGuard[WriteDone]:
    return isinstance(one, WriteDone)


def test_what_is_wanted_again_does_not_go(tmpfs: Path) -> None:
    files = tier(tmpfs, budget=60_000, is_durable=False)
    files.open()
    old = chain(2, seed=1)
    files.publish(old)
    transfer = HandTransfer({DISK: files}, 2**26)
    new = chain(4, 8000, seed=2)
    for at, block in enumerate([*new, old[1]]):
        transfer.write(DISK, block, tuple(names(old[::-1])) if at == 0 else ())
    transfer.work()
    [done] = transfer.completions()
    assert is_write(done)
    assert name_of(old[1].head) not in done.published.evicted
    assert name_of(old[1].head) in [entry.name for entry in done.published.done]


def test_writes_to_several_tiers_are_grouped_by_tier(tmpfs: Path) -> None:
    files = {one: tier(tmpfs / one.name, is_durable=False) for one in (Tier.SHM, DISK)}
    for one in files.values():
        one.open()
    transfer = HandTransfer(files, 2**26)
    for block in chain(10):
        for one in files:
            transfer.write(one, block)
    transfer.work()
    done = [one for one in transfer.completions() if is_write(one)]
    assert [(one.tier, len(one.blocks)) for one in done] == [(Tier.SHM, 10), (DISK, 10)]


def test_another_process_is_noticed(tmpfs: Path) -> None:
    mine, theirs = (tier(tmpfs, is_durable=False) for _ in range(2))
    mine.open()
    theirs.open()
    transfer = HandTransfer({DISK: mine}, 2**20)
    transfer.look()
    assert transfer.completions() == []
    blocks = chain(2)
    theirs.publish(blocks)
    transfer.look()
    [found] = transfer.completions()
    assert isinstance(found, Found)
    assert {entry.name for entry in found.scan.entries} == {*names(blocks)}
    transfer.look()
    assert transfer.completions() == []


def test_without_tiers_there_is_no_thread_and_nothing_waits() -> None:
    before = threading.active_count()
    transfer = Transfer({}, 100)
    assert threading.active_count() == before
    assert transfer.flush(FLUSH_SECONDS)
    transfer.wait(FLUSH_SECONDS)
    assert transfer.close(FLUSH_SECONDS)


def test_closing_ends_the_thread(files: Slow) -> None:
    files.may_go_on.set()
    before = threading.active_count()
    transfer = Transfer({DISK: files}, 2**20)
    done: list[int] = []
    for number in range(10):
        transfer.do(partial(done.append, number))
    assert transfer.close(FLUSH_SECONDS)
    assert done == list(range(10))
    assert threading.active_count() == before
