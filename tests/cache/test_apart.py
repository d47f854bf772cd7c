"""Blocks whose rows are read straight to where somebody wants them, and are blocks only then."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from samovar.cache.block import ROWS, BadBlock, Block, Head
from samovar.cache.files.buffers import Buffers
from samovar.cache.files.names import name_of
from samovar.cache.files.tier import FileTier, Missing
from samovar.cache.lease import Lease
from samovar.cache.store import BlockStore
from samovar.cache.transfer import Completion, Read, ReadApart, ReadDone, Transfer
from tests.cache.directories import (
    MODEL,
    Failing,
    Watched,
    alike,
    chain,
    descriptors,
    file_of,
    opened,
    same,
    tier,
)
from tests.cache.test_store import (
    DISK,
    MEMORY,
    SHM,
    all_same,
    bring,
    damage,
    disk,
    found,
    made,
    offer,
    tokens_of,
    work,
)
from tests.cache.test_transfer import Slow, drained
from tests.engine.cached import check_the_end_of, files_of, transfer_of

NBYTES = 8192  # of a block's rows, however many there are


class Apart:
    """Rows of which each position has places in two parts of a piece of memory, as K and V have.

    A block's rows take the same number of bytes wherever it ends; what else is in the memory shows
    if something is written beside its place.
    """

    def __init__(self, blocks: Sequence[Block], nbytes: int = NBYTES) -> None:
        self.half = nbytes // 2
        self.memory = np.full((2, len(blocks) * (self.half + 1)), 255, np.uint8)
        self.at = {block.head.start: number for number, block in enumerate(blocks)}

    def places(self, start: int, end: int) -> list[np.ndarray]:
        del end
        first = self.at[start] * (self.half + 1)
        return [part[first : first + self.half] for part in self.memory]

    def payload(self, start: int) -> bytes:
        return b"".join(place.tobytes() for place in self.places(start, 0))

    def holds(self, block: Block) -> bool:
        return self.payload(block.head.start) == bytes(block.payload)


def places_of(nbytes: int, count: int, chance: random.Random) -> list[np.ndarray]:
    """So many places for so many bytes; some may be empty."""
    cuts = sorted(chance.choices(range(nbytes + 1), k=count - 1))
    return [np.empty(b - a, np.uint8) for a, b in zip([0, *cuts], [*cuts, nbytes], strict=True)]


def read_apart(files: FileTier, block: Block, places: Sequence[np.ndarray]) -> Head | Block:
    return files.read_apart(name_of(block.head), MODEL.digest, places)


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 24, 1025, 3000])
def test_what_is_read_apart_is_the_payload_and_gathered_it_is_the_block(
    root: Path, count: int
) -> None:
    files, [block] = opened(root), chain(1, 20_000)
    files.publish([block])
    places = places_of(20_000, count, random.Random(count))
    head = read_apart(files, block, places)
    assert isinstance(head, Head)
    assert head.nbytes == block.nbytes
    assert b"".join(place.tobytes() for place in places) == bytes(block.payload)
    again = files.gather(head, places)
    for place in places:
        place[:] = 0
    assert same(again, block)
    assert again.nbytes == block.nbytes


@pytest.mark.parametrize("most", [1, 100, 4095])
def test_short_reads_are_continued(root: Path, most: int) -> None:
    def preadv(fd: int, pieces: Sequence[memoryview], offset: int) -> int:
        left, some = most, []
        for piece in pieces:
            some.append(piece[:left])
            left -= len(some[-1])
        return os.preadv(fd, some, offset)

    io, [block] = Watched(), chain(1, 3000)
    io.preadv = preadv
    files = opened(root, io=io)
    files.publish([block])
    places = places_of(3000, 9, random.Random(most))
    assert isinstance(read_apart(files, block, places), Head)
    assert b"".join(place.tobytes() for place in places) == bytes(block.payload)


def test_what_has_logits_or_another_size_is_read_as_a_block(root: Path) -> None:
    files, [block] = opened(root), chain(1, 3000)
    spoken = alike(block, ROWS, 3000, logits=40)
    files.publish([block, spoken])
    for one, nbytes in ((spoken, 3000), (block, 2999), (block, 3001)):
        places = [np.zeros(nbytes, np.uint8)]
        read = read_apart(files, one, places)
        assert isinstance(read, Block)
        assert same(read, one)
        assert not places[0].any()


def test_every_byte_that_is_damaged_is_noticed(root: Path) -> None:
    files, [block] = opened(root), chain(1, 300)
    files.publish([block])
    path, before = file_of(files, block), descriptors()
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(BadBlock):
            read_apart(files, block, places_of(300, 4, random.Random(at)))
        assert not path.exists()  # it is in quarantine
    for size in (0, 1, len(good) - 1, len(good) + 1):
        path.write_bytes((good + b"\0")[:size])
        with pytest.raises(BadBlock):
            read_apart(files, block, [np.empty(300, np.uint8)])
    with pytest.raises(Missing, match="vanished"):
        read_apart(files, block, [np.empty(300, np.uint8)])
    assert descriptors() == before


def test_a_block_of_another_scope_is_not_believed(root: Path) -> None:
    files, [block] = opened(root), chain(1, 300)
    files.publish([block])
    with pytest.raises(BadBlock, match="misplaced"):
        files.read_apart(name_of(block.head), bytes(32), [np.empty(300, np.uint8)])


@pytest.mark.parametrize("call", ["open", "fstat", "preadv", "close"])
def test_a_disk_that_fails_is_a_miss(root: Path, call: str) -> None:
    io, [block] = Failing(5, lambda _, name: name == call), chain(1, 300)
    files = opened(root, io=io)
    files.publish([block])
    places = [np.empty(300, np.uint8)]
    io.is_armed = True
    if call == "close":  # it was open for reading; nothing is lost
        assert isinstance(read_apart(files, block, places), Head)
        return
    with pytest.raises((Missing, BadBlock), match="io"):
        read_apart(files, block, places)


# ---- the thread ---------------------------------------------------------------------------------


def heard(done: Sequence[Completion]) -> list[tuple[int, str]]:
    return [
        (one.ticket, "apart" if isinstance(one, ReadApart) else "block" if one.block else one.cause)
        for one in done
        if isinstance(one, ReadApart | ReadDone)
    ]


def wanted(ticket: int, block: Block, rows: Apart | None = None) -> Read:
    places = () if rows is None else rows.places(block.head.start, 0)
    return Read(ticket, DISK, name_of(block.head), MODEL.digest, places)


@pytest.fixture
def files(tmpfs: Path) -> FileTier:
    return opened(tmpfs, is_durable=False)


def test_a_ticket_comes_back_when_its_rows_are_there_and_again_with_the_block(
    files: FileTier,
) -> None:
    blocks = chain(4)
    files.publish(blocks)
    rows, transfer = Apart(blocks), Transfer({DISK: files}, 2**26)
    damage(file_of(files, blocks[2]), "flipped")
    transfer.read(
        [
            *(wanted(ticket, block, rows) for ticket, block in enumerate(blocks)),
            wanted(4, blocks[0]),
        ]
    )
    done = drained(transfer)
    # What else was asked for goes before what nobody waits for.
    assert heard(done) == [
        (0, "apart"),
        (1, "apart"),
        (2, "contents"),
        (3, "apart"),
        (4, "block"),
        (0, "block"),
        (1, "block"),
        (3, "block"),
    ]
    gathered = [one.block for one in done if isinstance(one, ReadDone) and one.block]
    assert all(map(same, gathered, [blocks[at] for at in (0, 0, 1, 3)]))
    assert [rows.holds(block) for block in blocks] == [True, True, False, True]
    assert (rows.memory[:, rows.half :: rows.half + 1] == 255).all()
    assert transfer.close(10)


def test_who_waits_is_woken_when_all_that_was_asked_for_together_is_there(tmpfs: Path) -> None:
    files, blocks = Slow(tmpfs, MODEL, 2**30, is_durable=False), chain(20)
    files.open()
    files.may_go_on.set()
    files.publish(blocks)
    files.may_go_on.clear()
    transfer = Transfer({DISK: files}, 2**26)
    transfer.read([wanted(ticket, block) for ticket, block in enumerate(blocks)])
    transfer.read([wanted(20, blocks[0])])
    counts = list[int]()

    def wait() -> None:
        transfer.wait(60)
        counts.append(len(transfer.completions()))

    thread = threading.Thread(target=wait)
    thread.start()
    while not transfer._changed._waiters:  # type: ignore[attr-defined] # noqa: SLF001
        assert thread.is_alive()
    files.may_go_on.set()
    thread.join()
    assert counts[0] >= 20
    assert transfer.close(10)


@pytest.mark.parametrize(
    ("error", "cause"), [(MemoryError(), "memory"), (RuntimeError("a bug"), "internal")]
)
def test_no_memory_for_the_block_is_said_when_its_rows_were_there(
    files: FileTier, monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    blocks = chain(1)
    files.publish(blocks)
    monkeypatch.setattr(Buffers, "take", refuse)
    rows, transfer = Apart(blocks), Transfer({DISK: files}, 2**26)
    transfer.read([wanted(0, blocks[0], rows)])
    assert heard(drained(transfer)) == [(0, "apart"), (0, cause)]
    assert rows.holds(blocks[0])
    assert transfer.close(10)


# ---- the store ----------------------------------------------------------------------------------


def filled(folder: Path, blocks: Sequence[Block], **more: int) -> BlockStore:
    """A store that has blocks in its files only."""
    store = made(disk(folder), **more)
    offer(store, blocks)
    assert store.close()
    return made(disk(folder), **more)


def lease_apart(store: BlockStore, blocks: Sequence[Block]) -> tuple[Lease, Apart]:
    rows, path = Apart(blocks), store.match(store.scope(), tokens_of(blocks)).path
    return store.lease(store.scope(), path, rows), rows


@pytest.mark.parametrize("memory", [0, 2**26])
def test_a_lease_is_complete_before_there_are_blocks(tmpfs: Path, memory: int) -> None:
    blocks = chain(5, NBYTES)
    store = filled(tmpfs, blocks, memory=memory)
    held, rows = lease_apart(store, blocks)
    with held:
        for number in range(5):
            assert not held.is_complete
            work(store, 1)
            assert sum(head is not None for head in held.apart) == number + 1
        assert held.is_whole
        assert held.tiers == [DISK] * 5
        assert [head and head.key for head in held.heads] == [b.head.key for b in blocks]
        assert not held.run()
        assert all(map(rows.holds, blocks))
    work(store)
    assert all_same(held.run(), blocks)
    assert store.index.bytes_of(MEMORY) == (sum(b.nbytes for b in blocks) if memory else 0)
    assert bring(store, blocks)[1] == [MEMORY if memory else DISK] * 5
    check_the_end_of(store)


def test_what_is_in_memory_is_a_block_at_once(tmpfs: Path) -> None:
    blocks = chain(5, NBYTES)
    store = filled(tmpfs, blocks)
    bring(store, blocks[:2])
    held, rows = lease_apart(store, blocks)
    with held:
        assert held.tiers[:2] == [MEMORY] * 2
        work(store, 3)
        assert held.is_whole
        assert [block is None for block in held.blocks] == [False] * 2 + [True] * 3
        assert [head is None for head in held.apart] == [True] * 2 + [False] * 3
        assert [rows.holds(block) for block in blocks] == [False] * 2 + [True] * 3
    work(store)
    check_the_end_of(store)


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "deleted", "linked"])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_before_a_bad_one_there_are_blocks_in_the_end(tmpfs: Path, at: int, how: str) -> None:
    blocks = chain(5, NBYTES)
    store = filled(tmpfs, blocks, memory=0)
    damage(file_of(files_of(store)[DISK], blocks[at]), how)
    held, _ = lease_apart(store, blocks)
    with held:
        work(store, 5)
        assert held.cut == at
        assert held.is_complete is (at == 0)  # the others are not blocks yet
        work(store)
        assert held.is_complete
        assert not held.is_whole
        assert all_same(held.run(), blocks[:at])
    assert found(store, blocks) == len(tokens_of(blocks[:at]))
    check_the_end_of(store, has_faults=True)


def test_another_tier_gives_a_block_where_the_first_has_a_bad_one(tmpfs: Path) -> None:
    blocks = chain(3, NBYTES)
    two = {one: tier(tmpfs / one.name, is_durable=False) for one in (SHM, DISK)}
    store = made(two, memory=0)
    offer(store, blocks)
    work(store)
    damage(file_of(files_of(store)[SHM], blocks[1]), "flipped")
    held, rows = lease_apart(store, blocks)
    with held:
        while not held.is_complete:
            work(store, 1)
        assert held.is_whole
        assert held.tiers == [SHM, DISK, SHM]
        assert held.blocks[1] is not None
        assert same(held.blocks[1], blocks[1])
        assert [rows.holds(block) for block in blocks] == [True, False, True]
    work(store)
    check_the_end_of(store, has_faults=True)


def test_two_who_want_a_block_wait_for_one_read_and_the_second_for_the_block(tmpfs: Path) -> None:
    blocks = chain(3, NBYTES)
    store = filled(tmpfs, blocks, memory=0)
    one, rows = lease_apart(store, blocks)
    two, others = lease_apart(store, blocks)
    with one, two:
        assert len(transfer_of(store)._reads) == 3  # noqa: SLF001
        work(store, 3)
        assert one.is_whole
        assert not two.is_complete
        work(store)
        assert two.is_whole
        assert all_same(two.run(), blocks)
        assert all(map(rows.holds, blocks))
        assert not any(map(others.holds, blocks))
    check_the_end_of(store)


@pytest.mark.parametrize("done", range(7))
def test_a_lease_that_is_closed_at_any_time_harms_nothing(tmpfs: Path, done: int) -> None:
    blocks = chain(3, NBYTES)
    store = filled(tmpfs, blocks, memory=20_000)
    held, _ = lease_apart(store, blocks)
    work(store, done)
    held.close()
    assert all_same(bring(store, blocks)[0], blocks)
    check_the_end_of(store)


def test_the_end_of_a_store_finishes_what_is_being_read(tmpfs: Path) -> None:
    blocks = chain(3, NBYTES)
    store = filled(tmpfs, blocks)
    held, rows = lease_apart(store, blocks)
    with held:
        assert store.close()
    assert all(map(rows.holds, blocks))
    assert all_same(held.run(), blocks)
