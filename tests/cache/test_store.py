"""The store: what is offered is found again, within budgets, and whatever happens to files.

File work is done by hand here (`tests/engine/cached.py`), so that it can be stopped anywhere.
"""

from __future__ import annotations

import errno
import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from samovar.cache import store as store_module
from samovar.cache.block import ROWS, STATE, Block, Place, make_block
from samovar.cache.explain import reason
from samovar.cache.files.tier import FileTier
from samovar.cache.index.node import Tier
from samovar.cache.keys import ROOT, Key, pack_tokens, unpack_tokens
from samovar.cache.lease import Lease
from samovar.cache.machine.wear import Wear
from samovar.cache.store import BlockStore, Budgets
from tests.cache.directories import MODEL, Failing, alike, chain, file_of, same, tier
from tests.conftest import scaled
from tests.engine.cached import (
    PLENTY,
    HandTransfer,
    check_chains,
    check_store,
    check_the_end_of,
    files_of,
    transfer_of,
)

MEMORY, SHM, DISK = Tier.MEMORY, Tier.SHM, Tier.DISK


def made(
    files: Mapping[Tier, FileTier] | None = None,
    *,
    memory: int = PLENTY,
    queue: int = PLENTY,
    share: float = 0.5,
) -> BlockStore:
    """A store whose file work is done by hand."""
    with patch.object(store_module, "Transfer", HandTransfer):
        return BlockStore(MODEL, files or {}, Budgets(memory, queue, share))


@pytest.fixture
def folder(tmpfs: Path) -> Path:
    return tmpfs


def disk(folder: Path, budget: int = PLENTY, **more: object) -> dict[Tier, FileTier]:
    return {DISK: tier(folder, budget=budget, is_durable=False, **more)}


def tokens_of(blocks: Sequence[Block]) -> list[int]:
    """What a chain of rows stands for."""
    rows = [block for block in blocks if block.head.kind == ROWS]
    return [token for block in rows for token in unpack_tokens(block.head.tokens)]


def offer(store: BlockStore, blocks: Sequence[Block]) -> list[bool]:
    return [store.offer(block) for block in blocks]


def work(store: BlockStore, most: int | None = None) -> None:
    """Have file work done, and hear of it."""
    transfer_of(store).work(most)
    store.poll()
    check_store(store)


def found(store: BlockStore, blocks: Sequence[Block]) -> int:
    """How many tokens of a chain are there."""
    return store.match(store.scope(), tokens_of(blocks)).length


def lease(store: BlockStore, blocks: Sequence[Block]) -> Lease:
    """A lease of what there is of a chain."""
    return store.lease(store.scope(), store.match(store.scope(), tokens_of(blocks)).path)


def bring(store: BlockStore, blocks: Sequence[Block]) -> tuple[list[Block], list[Tier | None]]:
    """What comes of a chain, and where from."""
    with lease(store, blocks) as held:
        for _ in Tier:  # what one does not have, the next is asked for
            work(store)
        assert held.is_complete
        run = list(held.run())
        return run, held.tiers[: len(run)]


def all_same(run: Sequence[Block], blocks: Sequence[Block]) -> bool:
    return len(run) == len(blocks) and all(map(same, run, blocks))


# ---- there and back -----------------------------------------------------------------------------


def test_what_is_offered_is_there_at_once(folder: Path) -> None:
    store, blocks = made(disk(folder)), chain(5)
    assert all(offer(store, blocks))
    assert found(store, blocks) == len(tokens_of(blocks))
    with lease(store, blocks) as held:
        assert held.is_whole
        assert list(held.run()) == blocks
        assert held.tiers == [MEMORY] * 5
    check_the_end_of(store)


@pytest.mark.parametrize("which", [SHM, DISK])
def test_another_store_finds_it_in_files_and_keeps_it_in_memory(folder: Path, which: Tier) -> None:
    files = {which: tier(folder, is_durable=False)}
    store, blocks = made(files), chain(5)
    offer(store, blocks)
    assert store.close()
    again = made({which: tier(folder, is_durable=False)})
    assert found(again, blocks) == len(tokens_of(blocks))
    run, tiers = bring(again, blocks)
    assert all_same(run, blocks)
    assert tiers == [which] * 5
    assert bring(again, blocks)[1] == [MEMORY] * 5
    check_chains(again)
    check_the_end_of(again)


def test_the_fastest_tier_is_read(folder: Path) -> None:
    def both() -> dict[Tier, FileTier]:
        return {
            SHM: tier(folder / "shm", is_durable=False),
            DISK: tier(folder / "disk", is_durable=False),
        }

    store, blocks = made(both(), memory=0), chain(4)
    offer(store, blocks)
    work(store)
    assert bring(store, blocks)[1] == [SHM] * 4
    for block in blocks[1:3]:
        file_of(files_of(store)[SHM], block).unlink()
    run, tiers = bring(store, blocks)
    assert all_same(run, blocks)
    assert tiers == [SHM, DISK, DISK, SHM]
    assert store.counters.missing_blocks == 2
    check_store(store)


def test_two_who_want_a_block_wait_for_one_read(folder: Path) -> None:
    store, blocks = made(disk(folder), memory=0), chain(3)
    offer(store, blocks)
    work(store)
    with lease(store, blocks) as one, lease(store, blocks) as two:
        assert not one.is_complete
        assert len(transfer_of(store)._reads) == 3  # noqa: SLF001
        work(store)
        assert all(map(same, one.run(), blocks))
        assert [*one.run()] == [*two.run()]
    check_the_end_of(store)


def test_a_state_is_found_with_its_rows(folder: Path) -> None:
    rows = chain(3)
    state = alike(rows[1], STATE, 600, logits=50)
    for store in (made(disk(folder)), made(disk(folder))):
        offer(store, [*rows, state])
        match = store.match(store.scope(), tokens_of(rows), needs_state=True)
        assert match.state is not None
        assert (match.state.end, match.state.logits_bytes) == (tokens_end(rows[1]), 200)
        with store.lease(store.scope(), [*match.path[:2], match.state]) as held:
            work(store)
            assert all_same(held.run(), [*rows[:2], state])
        store.close()


def tokens_end(block: Block) -> int:
    return block.head.start + block.head.num_tokens


def test_what_is_offered_twice_is_kept_once(folder: Path) -> None:
    store, blocks = made(disk(folder)), chain(4)
    for _ in range(3):
        assert all(offer(store, blocks))
    work(store)
    assert all(offer(store, blocks))
    work(store)
    assert store.counters.written_blocks == {"memory": 4, "disk": 4}
    assert store.index.count_of(DISK) == 4


def check_a_key_stands_for_everything_before_it() -> None:
    """The same tokens at the same place are another block behind other ones."""
    store = made()
    chains = []
    for first in range(3):
        parent, blocks = ROOT, []
        for at, tokens in enumerate(([first] * 16, [9] * 16, [first // 2] * 16, [8] * 16)):
            place = Place(MODEL.digest, parent, 16 * at, pack_tokens(tokens))
            blocks.append(make_block(ROWS, place, memoryview(os.urandom(100))))
            parent = blocks[-1].head.key
        assert all(offer(store, blocks))
        chains.append(blocks)
    for blocks in chains:
        assert found(store, blocks) == 64
        assert all_same(bring(store, blocks)[0], blocks)


def test_a_key_stands_for_everything_before_it() -> None:
    check_a_key_stands_for_everything_before_it()


def test_a_salt_and_adapters_hide_everything_else(folder: Path) -> None:
    store = made(disk(folder))
    scopes = [
        store.scope(),
        store.scope(salt="a"),
        store.scope(salt="b"),
        store.scope((("aa", 1.0),)),
        store.scope((("aa", 0.5),)),
        store.scope((("aa", 1.0),), "a"),
        store.scope((("aa", 1.0), ("bb", 1.0))),
        store.scope((("bb", 1.0), ("aa", 1.0))),
    ]
    assert len({scope.digest for scope in scopes}) == len(scopes)
    chains = [chain(3, namespace=scope.namespace) for scope in scopes]
    for at, (scope, blocks) in enumerate(zip(scopes, chains, strict=True)):
        for other in scopes[at:]:
            assert store.match(other, tokens_of(blocks)).length == 0
        assert all(offer(store, blocks))
        assert store.match(scope, tokens_of(blocks)).length == len(tokens_of(blocks))
    work(store)
    check_the_end_of(store)
    store.close()
    again = made(disk(folder))
    for blocks, (adapters, salt) in zip(
        chains,
        [
            ((), ""),
            ((), "a"),
            ((), "b"),
            ((("aa", 1.0),), ""),
            ((("aa", 0.5),), ""),
            ((("aa", 1.0),), "a"),
            ((("aa", 1.0), ("bb", 1.0)), ""),
            ((("bb", 1.0), ("aa", 1.0)), ""),
        ],
        strict=True,
    ):
        scope = again.scope(adapters, salt)
        with again.lease(scope, again.match(scope, tokens_of(blocks)).path) as held:
            work(again)
            assert all_same(held.run(), blocks)


# ---- budgets ------------------------------------------------------------------------------------


def test_without_any_room_nothing_is_kept(folder: Path) -> None:
    store, blocks = made(memory=0), chain(2)
    assert offer(store, blocks) == [False, False]
    assert found(store, blocks) == 0
    small = made(disk(folder, budget=20_000), memory=100)
    assert offer(small, chain(1, 50_000)) == [True]  # whether it fits, its writer finds out
    work(small)
    assert small.counters.dropped_blocks == {"budget": 1}
    assert found(small, chain(1, 50_000)) == 0
    check_the_end_of(small)


def hostile(store: BlockStore, chance: random.Random, rounds: int) -> Iterator[None]:
    """Conversations of all sizes that go on and fork, each used now and then."""
    known: list[list[Block]] = []
    for number in range(rounds):
        before = chance.choice(known)[: chance.randrange(1, 9)] if known and number % 3 else []
        after = before[-1] if before else None
        size = chance.choice([10, 3000, 9000, 20_000])
        more = chain(chance.randrange(1, 6), size, seed=number, after=after)
        if chance.random() < 0.4:
            more.append(alike(more[-1], STATE, chance.choice([100, 6000]), logits=30))
        if found(store, before) == len(tokens_of(before)):
            known.append([*before, *(block for block in more if block.head.kind == ROWS)])
            for block in more:
                if not store.offer(block):
                    break
        if known and chance.random() < 0.5:
            with lease(store, chance.choice(known)):
                transfer_of(store).work(chance.randrange(4))
                store.poll()
                yield
        transfer_of(store).work(chance.choice([0, 1, 2, 50]))
        store.poll()
        yield


def check_nothing_is_evicted_before_what_hangs_on_it() -> None:
    """Whatever goes, goes from the ends of chains; in every tier by itself."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="samovar-test-") as name:
        for files in ({}, disk(Path(name), 150_000)):
            store = made(files, memory=60_000)
            for _ in hostile(store, random.Random(5), 150):
                check_store(store)
                check_chains(store)
            check_the_end_of(store)
            assert store.counters.evicted_blocks["memory"] > 20
            assert not files or store.counters.evicted_blocks["disk"] > 20
            store.close()


def test_nothing_is_evicted_before_what_hangs_on_it() -> None:
    check_nothing_is_evicted_before_what_hangs_on_it()


@pytest.mark.parametrize("queue", [PLENTY, 25_000])
@pytest.mark.parametrize("memory", [0, 30_000, 200_000])
def test_budgets_hold_and_chains_stay_whole_under_everything(
    folder: Path, memory: int, queue: int
) -> None:
    chance = random.Random(memory + queue)
    store = made(
        {
            SHM: tier(folder / "shm", budget=130_000, is_durable=False),
            DISK: tier(folder / "disk", budget=300_000, is_durable=False),
        },
        memory=memory,
        queue=queue,
    )
    for _ in hostile(store, chance, scaled(120, 3000)):
        check_store(store)
        check_chains(store)
        for files in files_of(store).values():
            assert files.used_bytes() <= files.budget
    check_the_end_of(store)
    assert store.index.bytes_of(DISK) > 300_000 / 2
    assert store.close()


@contextmanager
def only_memory(budget: int) -> Iterator[BlockStore]:
    store = made(memory=budget)
    yield store
    check_the_end_of(store)


def check_what_is_leased_stays() -> None:
    """Nothing that somebody waits for goes, however much comes."""
    blocks = chain(4, 1000)
    with only_memory(10_000) as store:
        offer(store, blocks)
        held = lease(store, blocks)
        for seed in range(1, 30):
            for block in chain(3, 1000, seed=seed):
                store.offer(block, seconds=1e3)  # they are worth more
            assert found(store, blocks) == len(tokens_of(blocks))
        held.close()
        store.shrink_memory(0)
        assert found(store, blocks) == 0


def test_what_is_leased_stays() -> None:
    check_what_is_leased_stays()


def test_what_is_held_for_somebody_who_waits_stays_in_files(folder: Path) -> None:
    store, blocks = made(disk(folder, 100_000), memory=0), chain(4)
    offer(store, blocks)
    work(store)
    nodes = store.match(store.scope(), tokens_of(blocks)).path
    store.hold(nodes)
    for seed in range(1, 20):
        offer(store, chain(3, seed=seed))
        work(store)
    assert all_same(bring(store, blocks)[0], blocks)
    store.let_go(nodes)
    for seed in range(20, 60):
        offer(store, chain(3, seed=seed))
        work(store)
    assert found(store, blocks) < len(tokens_of(blocks))
    check_the_end_of(store)


def test_a_pin_keeps_a_prefix_over_restarts(folder: Path) -> None:
    blocks = chain(4)
    store = made(disk(folder, 100_000), memory=0)
    offer(store, blocks)
    work(store)
    store.pin(blocks[2].head.key)
    for _ in range(2):
        for seed in range(1, 30):
            offer(store, chain(3, seed=seed))
            work(store)
        assert found(store, blocks) >= len(tokens_of(blocks[:3]))
        store.close()
        store = made(disk(folder, 100_000), memory=0)
    store.pin(blocks[2].head.key, is_pinned=False)
    for seed in range(30, 70):
        offer(store, chain(3, seed=seed))
        work(store)
    assert found(store, blocks) == 0


def test_what_was_used_often_stays_over_restarts(folder: Path) -> None:
    often, seldom = (fixed(4, 100, 8000, seed=seed) for seed in (1, 2))
    store = made(disk(folder, 160_000), memory=0)
    offer(store, [*often, *seldom])
    work(store)
    for _ in range(20):
        bring(store, often)
    for seed in range(3, 6):
        store.close()
        store = made(disk(folder, 160_000), memory=0)
        offer(store, fixed(5, 100, 8000, seed=seed))
        work(store)
    assert found(store, often) == len(tokens_of(often))
    assert found(store, seldom) < len(tokens_of(seldom))


def test_checkpoints_take_no_more_than_their_share(folder: Path) -> None:
    store = made(disk(folder, 400_000), memory=100_000, share=0.3)
    for seed in range(20):
        rows = chain(3, 500, seed=seed)
        offer(store, [*rows, *(alike(block, STATE, 9000) for block in rows)])
        if seed % 3 == 0:
            work(store)
        check_store(store)  # which looks at the share
    work(store)
    assert store.index.count_of(DISK) > 60
    assert store._records.checkpoints.bytes_of(DISK) > 0.2 * 400_000  # noqa: SLF001
    more = chain(1, 500, seed=99)
    assert offer(store, [*more, alike(more[0], STATE, 130_000)]) == [True, False]
    check_the_end_of(store)


def test_a_tier_that_is_full_of_other_things_still_takes_blocks(folder: Path) -> None:
    """What is not blocks counts as well: names take pages of directories, and scopes have files."""
    store = made(disk(folder, 100_000), memory=0)
    for number in range(5):
        store.scope(salt=str(number))
    for seed in range(30):
        blocks = chain(2, 3000, seed=seed)
        offer(store, blocks)
        work(store)
        if seed > 20:
            assert found(store, blocks) == len(tokens_of(blocks))
    assert store.counters.evicted_blocks["disk"] > 30
    check_the_end_of(store)


def test_memory_that_is_needed_is_given_back(folder: Path) -> None:
    store, blocks = made(disk(folder)), chain(10, 1000)
    offer(store, blocks)
    store.shrink_memory(3000)
    assert store.index.bytes_of(MEMORY) <= 3000
    check_store(store)
    work(store)
    assert all_same(bring(store, blocks)[0], blocks)


# ---- writes that are refused --------------------------------------------------------------------


def test_a_full_queue_refuses_and_what_it_refused_follows_later(folder: Path) -> None:
    store, blocks = made(disk(folder), queue=20_000), chain(6)
    assert all(offer(store, blocks[:5]))  # they are in memory
    assert store.counters.dropped_blocks["queue"] >= 1
    assert transfer_of(store).queued_bytes <= 20_000
    work(store)
    check_chains(store)
    for _ in range(4):
        store.offer(chain(1, after=blocks[4])[0])
        work(store)
        check_chains(store)
    assert store.index.count_of(DISK) == 6
    store.close()
    assert found(made(disk(folder)), blocks) == len(tokens_of(blocks[:5]))


def test_what_goes_out_of_memory_for_what_was_still_being_read_is_flushed_too(folder: Path) -> None:
    """A prompt whose request was cancelled comes, and what was refused before has to leave."""
    known, blocks = chain(4, seed=1), chain(3, seed=2)
    before = made(disk(folder))
    offer(before, known)
    assert before.close()
    store = made(disk(folder), memory=5 * 8192, queue=20_000)
    assert all(offer(store, blocks))
    assert store.counters.dropped_blocks["queue"] == 1
    lease(store, known).close()
    check_the_end_of(store)
    assert store.index.count_of(DISK) == 7
    assert store.close()
    assert found(made(disk(folder)), blocks) == len(tokens_of(blocks))


def test_a_full_queue_and_no_memory_refuse_all(folder: Path) -> None:
    store, blocks = made(disk(folder), memory=0, queue=100), chain(2)
    assert offer(store, blocks) == [False, False]
    assert store.counters.dropped_blocks == {"queue": 1, "parent": 1}
    check_the_end_of(store)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_costs_its_blocks_and_nothing_else(folder: Path, number: int) -> None:
    io = Failing(number, lambda _, name: name in ("writev", "link", "pwrite"))
    store, blocks = made(disk(folder, io=io)), chain(8)
    offer(store, blocks[:2])
    work(store)
    io.is_armed = True
    offer(store, blocks[2:6])
    work(store)
    assert sum(store.counters.dropped_blocks.values()) == 4
    assert found(store, blocks) == len(tokens_of(blocks[:6]))  # in memory
    io.is_armed = False
    offer(store, blocks[6:])
    work(store)
    check_chains(store)
    assert store.index.count_of(DISK) == 8
    check_the_end_of(store)


def test_what_is_refused_refuses_what_hangs_on_it_though_that_comes_later(folder: Path) -> None:
    io = Failing(errno.ENOSPC, lambda _, name: name == "writev")
    store, blocks = made(disk(folder, io=io), memory=0), chain(40)
    offer(store, blocks)  # more than one group
    io.is_armed = True
    transfer_of(store).work(2)  # making the scope known, or a group
    io.is_armed = False
    work(store)
    check_chains(store)
    assert store.counters.dropped_blocks["parent"] > 0


def test_a_day_has_a_cap(folder: Path) -> None:
    now = [1e6]
    watch = store_module.Watch(wear=Wear(folder / "written", 40_000, lambda: now[0]))
    with patch.object(store_module, "Transfer", HandTransfer):
        store = BlockStore(MODEL, disk(folder), Budgets(0, PLENTY), watch)
    for seed in range(20):
        offer(store, chain(1, seed=seed))
        work(store)
    assert 20_000 < store.counters.written_bytes["disk"] <= 40_000
    assert store.counters.dropped_blocks["daily"] > 10
    now[0] += 25 * 3600
    assert store.offer(chain(1, seed=99)[0])
    store.close()


# ---- files that are bad -------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    """Do something to a file."""
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "cut":
        path.write_bytes(data[:-10])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "deleted":
        path.unlink()
    elif how == "linked":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "deleted", "linked"])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_bad_file_ends_the_path_before_it(folder: Path, at: int, how: str) -> None:
    store, blocks = made(disk(folder), memory=0), chain(5)
    offer(store, blocks)
    work(store)
    damage(file_of(files_of(store)[DISK], blocks[at]), how)
    run, _ = bring(store, blocks)
    assert all_same(run, blocks[:at])
    counters = store.counters
    assert sum(counters.bad_blocks.values()) == (how != "deleted")
    assert counters.missing_blocks == (how == "deleted")
    assert found(store, blocks) == len(tokens_of(blocks[:at]))
    assert all(offer(store, blocks))  # somebody has computed it again
    work(store)
    assert all_same(bring(store, blocks)[0], blocks)
    check_chains(store)


def test_a_block_of_another_namespace_under_a_name_of_ours_is_a_miss(folder: Path) -> None:
    store, ours = made(disk(folder), memory=0), chain(2)
    theirs = chain(2, namespace=MODEL.under(salt="x"))
    store.scope(salt="x")
    offer(store, [*ours, *theirs])
    work(store)
    files = files_of(store)[DISK]
    file_of(files, theirs[1]).replace(file_of(files, ours[1]))
    assert all_same(bring(store, ours)[0], ours[:1])
    assert store.counters.bad_blocks == {"misplaced": 1}


def test_names_that_lie_are_counted_when_the_directory_is_opened(folder: Path) -> None:
    store, blocks = made(disk(folder)), chain(3)
    offer(store, blocks)
    store.close()
    path = file_of(tier(folder), blocks[1])
    key, parent, start, count, rest = path.name.split(".", 4)
    path.rename(path.with_name(f"{key}.{parent}.{int(start) + 1}.{count}.{rest}"))
    again = made(disk(folder))
    assert found(again, blocks) <= len(tokens_of(blocks[:1]))
    check_store(again)


def test_a_directory_that_cannot_be_used_is_left_out_and_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir(exist_ok=True)
    (folder.parent / "else").mkdir()
    folder.symlink_to(folder.parent / "else")
    store, blocks = made(disk(folder)), chain(2)
    assert DISK in store.refused
    assert "disk" in caplog.text
    assert all(offer(store, blocks))
    assert bring(store, blocks)[1] == [MEMORY] * 2
    assert store.close()


# ---- several processes --------------------------------------------------------------------------


def test_what_another_process_published_and_deleted_is_seen(folder: Path) -> None:
    one, two = made(disk(folder), memory=0), made(disk(folder), memory=0)
    blocks, others = chain(4), chain(4, seed=1)
    offer(one, blocks)
    work(one)
    assert found(two, blocks) == 0
    transfer_of(two).look()
    two.poll()
    assert all_same(bring(two, blocks)[0], blocks)
    offer(two, others)
    work(two)
    files = files_of(one)[DISK]
    files.delete([])
    transfer_of(one).look()
    one.poll()
    assert all_same(bring(one, others)[0], others)
    check_store(one)
    check_store(two)


def test_two_that_fill_one_directory_keep_its_budget(folder: Path) -> None:
    stores = [made(disk(folder, 150_000), memory=0) for _ in range(2)]
    chance = random.Random(1)
    players = [hostile(store, random.Random(seed), 80) for seed, store in enumerate(stores)]
    while players:
        player = chance.choice(players)
        if next(player, StopIteration) is StopIteration:
            players.remove(player)
        for store in stores:
            if chance.random() < 0.2:
                transfer_of(store).look()
                store.poll()
            check_store(store)
            files = files_of(store)[DISK]
            assert files.used_bytes() <= files.budget
    for store in stores:
        transfer_of(store).look()
        store.poll()
        check_the_end_of(store)
    assert all(store.counters.evicted_blocks["disk"] for store in stores)
    held = [{(node.key, node.kind) for node in store.index.nodes(DISK)} for store in stores]
    assert held[0] == held[1]


# ---- leases -------------------------------------------------------------------------------------


def test_a_lease_that_is_closed_while_it_is_read_harms_nothing(folder: Path) -> None:
    store, blocks = made(disk(folder), memory=20_000), chain(4)
    offer(store, blocks)
    store.close()
    store = made(disk(folder), memory=20_000)
    held = lease(store, blocks)
    held.close()
    held.close()
    assert transfer_of(store)._reads  # noqa: SLF001 - they are still on their way
    work(store)
    assert all_same(bring(store, blocks)[0], blocks)
    check_the_end_of(store)


def test_a_block_that_leaves_memory_while_it_is_leased_is_still_handed_out() -> None:
    store, blocks = made(memory=50_000), chain(3)
    offer(store, blocks)
    with lease(store, blocks) as held:
        store.shrink_memory(0)
        assert all_same(held.run(), blocks)
        assert found(store, blocks) == len(tokens_of(blocks))  # it is held
    store.shrink_memory(0)
    assert found(store, blocks) == 0


# ---- why ----------------------------------------------------------------------------------------


def why(store: BlockStore, tokens: list[int], **scope: object) -> str:
    where = store.scope(**scope)
    return reason(store, where, tokens, store.match(where, tokens), 128)


def test_reasons(folder: Path) -> None:
    store, blocks = made(disk(folder)), fixed(3, 128)
    tokens = tokens_of(blocks)
    assert why(store, tokens) == "new"
    offer(store, blocks)
    assert why(store, tokens) == "none"
    assert why(store, [*tokens, 1, 2]) == "new"
    assert why(store, [*tokens[:300], 1, 2]) == "other_tokens"
    assert why(store, tokens, adapters=(("aa", 1.0),)) == "other_adapters"
    assert why(store, tokens, salt="x") == "new"


def test_what_was_evicted_is_said_to_be() -> None:
    store, blocks = made(memory=9000), fixed(3, 128, 2000)
    offer(store, blocks)
    offer(store, fixed(1, 64, 2000))
    assert 0 < found(store, blocks) < len(tokens_of(blocks))
    assert why(store, tokens_of(blocks)) == "evicted"


def fixed(count: int, length: int, nbytes: int = 100, seed: int = 0) -> list[Block]:
    """A chain of blocks of equal lengths."""
    parent: Key = ROOT
    blocks = []
    for at in range(count):
        tokens = [(seed * 77 + at * length + i * (length - 1)) % 1000 for i in range(length)]
        place = Place(MODEL.digest, parent, at * length, pack_tokens(tokens))
        blocks.append(make_block(ROWS, place, memoryview(os.urandom(nbytes))))
        parent = blocks[-1].head.key
    return blocks


# ---- the end ------------------------------------------------------------------------------------


def test_closing_writes_what_was_taken(folder: Path) -> None:
    store, blocks = made(disk(folder), memory=0), chain(30)
    offer(store, blocks)
    assert store.close()
    assert found(made(disk(folder)), blocks) == len(tokens_of(blocks))


def test_a_crash_loses_what_was_not_written_and_nothing_else(folder: Path) -> None:
    store, blocks = made(disk(folder), memory=0), chain(10)
    offer(store, blocks[:4])
    assert store.flush(1.0)
    offer(store, blocks[4:])
    transfer_of(store).crash()
    again = made(disk(folder))
    assert all_same(bring(again, blocks)[0], blocks[:4])
    check_the_end_of(again)
