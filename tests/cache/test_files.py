"""A directory of blocks, on a real file system: what is written, listed, read, counted and kept."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from samovar.cache.block import ROWS, STATE, BadBlock
from samovar.cache.files.names import name_of, parse_name
from samovar.cache.files.tier import Missing
from samovar.cache.keys import ROOT
from tests.cache.directories import (
    MODEL,
    Watched,
    alike,
    causes,
    chain,
    descriptors,
    file_of,
    measured,
    mixed,
    modes,
    names,
    opened,
    same,
    tier,
    unchained,
    whole,
)
from tests.conftest import scaled

SALTED = MODEL.under(salt="somebody")


# ---- there and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("is_durable", [True, False])
def test_what_is_published_is_read(root: Path, *, is_durable: bool) -> None:
    files, blocks = opened(root, is_durable=is_durable), [*mixed(5), *chain(3, 0, seed=9)]
    published = files.publish(blocks)
    assert {entry.name for entry in published.done} == set(names(blocks))
    assert published.refused == published.evicted == []
    for block in blocks:
        assert same(files.read(name_of(block.head), MODEL.digest), block)


def test_another_process_finds_it(root: Path) -> None:
    files, blocks = opened(root), mixed(5)
    done = files.publish(blocks).done
    scan = whole(root)
    assert sorted(scan.entries) == sorted(done)
    assert scan.foreign == scan.leavings == 0


def test_sizes_are_those_of_the_system(root: Path) -> None:
    files, blocks = opened(root), mixed(4)
    for entry in files.publish(blocks).done:
        path = files.path / "blocks" / str(entry.name)
        assert entry.nbytes == path.stat().st_blocks * 512
    written = sum(path.stat().st_size for path in (files.path / "blocks").iterdir())
    assert files.publish(blocks).written_bytes == 0
    assert opened(root.parent / "other").publish(blocks).written_bytes == written


def test_nothing_can_be_read_by_others(root: Path) -> None:
    before = os.umask(0)
    try:
        files = opened(root)
        files.publish(mixed(3))
        files.add_scope(SALTED)
        files.save_usage({ROOT: (1.0, 2.0)})
        files.pin(ROOT)
    finally:
        os.umask(before)
    assert modes(root) == {("directory", 0o700), ("file", 0o600)}


def test_directories_that_others_may_enter_are_closed(root: Path) -> None:
    files = opened(root)
    for path in (files.path, files.path / "blocks"):
        path.chmod(0o755)
    files.open()
    assert modes(files.path) == {("directory", 0o700), ("file", 0o600)}


def test_what_is_there_is_not_written_again(root: Path) -> None:
    one, other, blocks = opened(root), opened(root), mixed(4)
    first = one.publish(blocks)
    inodes = {file_of(one, block).stat().st_ino for block in blocks}
    second = other.publish([*blocks, *blocks])
    assert sorted(second.done) == sorted(first.done)
    assert second.written_bytes == 0
    assert {file_of(one, block).stat().st_ino for block in blocks} == inodes


def test_contents_come_into_the_buffer_that_is_handed_in(root: Path) -> None:
    files, (block,) = opened(root), chain(1, 5000)
    files.publish([block])
    buffer = bytearray(10_000)
    read = files.read(name_of(block.head), MODEL.digest, memoryview(buffer))
    assert same(read, block)
    buffer[:] = bytes(10_000)
    assert not any(read.payload)
    small = files.read(name_of(block.head), MODEL.digest, memoryview(bytearray(100)))
    assert same(small, block)


def test_groups_larger_than_what_may_be_open_at_once(tmpfs: Path) -> None:
    files, blocks = opened(tmpfs), chain(150, 100)
    limits: list[int] = []
    watched = opened(
        tmpfs.parent / "other",
        io=Watched(lambda *_: limits.append(descriptors())),
    )
    assert len(files.publish(blocks).done) == 150
    start = descriptors()
    assert len(watched.publish(blocks).done) == 150
    assert max(limits) - start < 100


def test_a_block_saved_with_logits_takes_the_place_of_the_one_without(root: Path) -> None:
    files, (block,) = opened(root), chain(1)
    better = alike(block, ROWS, 8192, logits=20)
    files.publish([block])
    files.publish([better])
    scan = files.open()
    assert [entry.name for entry in scan.entries] == [name_of(better.head)]
    assert scan.leavings == 1
    assert not file_of(files, block).exists()
    whole(root)


def test_what_is_readable_beside_the_blocks(root: Path) -> None:
    files = opened(root)
    assert files.add_scope(SALTED)
    assert (files.path / "namespace.json").read_text() == MODEL.as_json()
    noted = files.path / "scopes" / f"{SALTED.digest.hex()}.json"
    assert noted.read_text() == SALTED.as_json()
    (files.path / "namespace.json").write_text("damaged")
    files.open()
    assert (files.path / "namespace.json").read_text() == MODEL.as_json()


def test_blocks_of_a_scope_that_was_not_added_are_refused(root: Path) -> None:
    files, blocks = opened(root), chain(2, namespace=SALTED)
    assert causes(files, blocks) == ["namespace", "namespace"]
    assert files.add_scope(SALTED)
    assert causes(files, blocks) == []
    other = opened(root)
    assert causes(other, chain(3, namespace=SALTED, seed=1)) == []
    assert same(other.read(name_of(blocks[1].head), SALTED.digest), blocks[1])


# ---- the budget ---------------------------------------------------------------------------------


def test_a_budget_refuses_and_what_hangs_on_it(root: Path) -> None:
    files, (first, second, third) = opened(root), chain(3, 20_000)
    files.budget = files.used_bytes() + 40_000
    published = files.publish([third, first, alike(second, STATE, 10), second])
    assert [entry.name for entry in published.done] == names([first])
    assert {refusal.cause for refusal in published.refused} == {"budget", "parent"}
    assert len(published.refused) == 3
    assert unchained(whole(root)) == []


def test_no_more_is_evicted_than_necessary(root: Path) -> None:
    files, old, new = opened(root), chain(6, 20_000), chain(2, 20_000, seed=1)
    files.publish(old)
    files.budget = files.used_bytes() + 10_000
    leaves = names(old)[::-1]
    published = files.publish(new, evict=leaves)
    assert [entry.name for entry in published.done] == names(new)
    assert published.evicted == leaves[:2]
    assert {entry.name for entry in whole(root).entries} == {*names(old[:4]), *names(new)}


def test_nothing_is_evicted_for_what_never_fits(root: Path) -> None:
    files, old = opened(root), chain(3)
    files.publish(old)
    files.budget = files.used_bytes()
    published = files.publish(chain(1, files.budget, seed=1), evict=names(old))
    assert [refusal.cause for refusal in published.refused] == ["budget"]
    assert published.evicted == []
    assert len(whole(root).entries) == 3


def test_what_is_in_quarantine_goes_before_any_block(root: Path) -> None:
    files, old = opened(root), chain(2, 20_000)
    files.publish(old)
    file_of(files, old[1]).write_bytes(bytes(20_000))
    with pytest.raises(BadBlock):
        files.read(name_of(old[1].head), MODEL.digest)
    files.budget = files.used_bytes() + 4096
    published = files.publish(chain(1, 18_000, seed=1), evict=names(old[:1]))
    assert len(published.done) == 1
    assert published.evicted == []


@pytest.mark.parametrize("seed", range(3))
def test_no_company_of_tiers_ever_exceeds_the_budget(root: Path, seed: int) -> None:
    chance, budget, peaks = random.Random(seed), 400_000, [0]
    path = opened(root).path

    def measure(call: str, _: object) -> None:
        if call in ("writev", "link", "rename", "unlink"):
            peaks.append(measured(path))

    company = [opened(root, budget=budget, io=Watched(after=measure)) for _ in range(3)]
    for number in range(scaled(60, 300)):
        files = chance.choice(company)
        blocks = chain(chance.randrange(1, 8), chance.randrange(1, 30_000), seed=number)
        there = [name for file in (path / "blocks").iterdir() if (name := parse_name(file.name))]
        chance.shuffle(there)
        match chance.randrange(5):
            case 0:
                files.delete(there[: chance.randrange(1, 10)])
            case 1:
                files.save_usage(dict.fromkeys((os.urandom(32) for _ in range(300)), (1.0, 2.0)))
            case _:
                files.publish(blocks, evict=there[: chance.randrange(20)])
        assert files.used_bytes() == measured(path)
    assert budget * 0.8 < max(peaks) <= budget


# ---- a closed tier ------------------------------------------------------------------------------


@pytest.mark.parametrize("was_open", [True, False])
def test_nothing_is_done_by_a_tier_that_is_not_open(root: Path, *, was_open: bool) -> None:
    files, blocks = tier(root), chain(2)
    if was_open:
        files.open()
        files.publish(blocks)
    files.close()
    files.close()
    before = sorted(root.rglob("*"))
    assert causes(files, blocks) == ["closed", "closed"]
    with pytest.raises(Missing, match="closed"):
        files.read(name_of(blocks[0].head), MODEL.digest)
    assert files.find(names(blocks)) == files.delete(names(blocks)) == []
    assert files.rescan() is None
    assert files.pins() == set()
    assert files.load_usage() == {}
    assert not files.pin(ROOT)
    assert not files.unpin(ROOT)
    assert not files.save_usage({})
    assert not files.add_scope(SALTED)
    assert [problem.kind for problem in files.check(deep=True)] == ["closed"]
    assert files.repair([]) == 0
    assert sorted(root.rglob("*")) == before
    assert len(files.open().entries) == 2 * was_open


def test_descriptors_are_given_back(root: Path) -> None:
    before = descriptors()
    files = opened(root)
    files.publish(mixed(5))
    files.open()
    files.check(deep=True)
    files.close()
    assert descriptors() == before
