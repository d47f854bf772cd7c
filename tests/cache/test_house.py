"""All namespaces of a root: what is said of them, what is deleted, and the budget of them all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from samovar.cache.block import Block
from samovar.cache.files.names import name_of
from samovar.cache.files.outcomes import DiskRefused
from samovar.cache.house import UNUSED_SECONDS, Directory, House, HousedTier, lodge
from tests.cache.directories import (
    Watched,
    chain,
    file_of,
    measured,
    names,
    opened,
    unchained,
)
from tests.cache.lodger import lodged, space
from tests.conftest import ROOT, scaled

DAY = 86_400


@pytest.fixture
def house(tmpfs: Path) -> House:
    """Of a root that is not there yet, in memory."""
    return House(tmpfs)


def filled(house: House, number: int, count: int = 10, days: float = 0) -> list[Block]:
    """A namespace with blocks of two pages each, which nobody has used for some days."""
    tier = lodged(house.root, number)
    blocks = chain(count, 5000, namespace=space(number))
    assert not tier.publish(blocks).refused
    tier.close()
    age(tier.path, days)
    return blocks


def age(path: Path, days: float) -> None:
    when = time.time_ns() - int(days * DAY * 1e9)
    for name in ("used", "usage", "blocks"):
        if (path / name).exists():
            os.utime(path / name, ns=(when, when))


def path_of(house: House, number: int) -> Path:
    return house.root / space(number).digest.hex()[:32]


def of(house: House, number: int) -> Directory:
    return next(one for one in house.directories() if one.path == path_of(house, number))


def there(house: House) -> set[int]:
    found = {one.path for one in house.directories()}
    return {number for number in range(10) if path_of(house, number) in found}


def measured_sum(house: House) -> int:
    return sum(measured(one.path) for one in house.directories())


@contextmanager
def lodger(root: Path, number: int, how: str = "stays") -> Iterator[subprocess.Popen[str]]:
    """Another process; it ends when its input does."""
    command = [sys.executable, "-m", "tests.cache.lodger", str(root), str(number), how]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.stdout.read()
    assert process.returncode in (0, -9)


# ---- looking ------------------------------------------------------------------------------------


def test_what_is_said_of_a_namespace_is_true(house: House) -> None:
    blocks = filled(house, 1, 7)
    tier = lodged(house.root, 2)
    tier.pin(blocks[0].head.key)
    one, two = of(house, 1), of(house, 2)
    assert (one.used_bytes, two.used_bytes) == (measured(one.path), measured(two.path))
    assert (one.is_in_use, two.is_in_use) == (False, True)
    assert (one.num_pins, two.num_pins) == (0, 1)
    contents = house.contents(one)
    assert contents.num_blocks == 7
    assert contents.num_tokens == sum(block.head.num_tokens for block in blocks)
    found = house.namespace(one)
    assert found is not None
    assert found.fields["model"] == "model 1"
    assert house.used_bytes() == measured_sum(house)
    assert house.used_bytes(but=two.path) == one.used_bytes


def test_bytes_are_counted_where_the_ledger_cannot_be_trusted(house: House) -> None:
    filled(house, 1)
    (path_of(house, 1) / "lock").write_bytes(b"nonsense")
    assert of(house, 1).used_bytes == measured(path_of(house, 1))


def test_bytes_are_counted_after_a_writer_died(house: House) -> None:
    def die(call: str, _: object) -> None:
        if call == "link":
            raise KeyboardInterrupt

    io = Watched()
    files = opened(house.root, is_durable=False, io=io)
    io.before = die
    with pytest.raises(KeyboardInterrupt):
        files.publish(chain(3))
    (one,) = house.directories()
    assert one.used_bytes == measured(files.path) > 0


def test_looking_changes_nothing(house: House) -> None:
    filled(house, 1, days=40)
    before = {each: each.lstat() for each in house.root.rglob("*")}
    (one,) = house.directories()
    house.contents(one)
    house.namespace(one)
    assert not house.check(one, deep=True, repairs=False).problems
    assert of(house, 1).last_used == one.last_used
    after = {each: each.lstat() for each in house.root.rglob("*")}
    assert before.keys() == after.keys()
    assert all(
        after[each].st_size == about.st_size and after[each].st_ino == about.st_ino
        for each, about in before.items()
    )


def test_the_root_need_not_be_there(house: House) -> None:
    assert house.directories() == []
    assert house.shrink(0) == house.used_bytes() == 0
    assert house.prune(0) == []
    house.sweep()
    assert not house.root.exists()


def test_a_use_is_noted_when_it_begins_and_ends_and_not_in_between(house: House) -> None:
    blocks = filled(house, 1, days=40)
    started = time.time_ns() / 1e9
    assert of(house, 1).last_used < started - 39 * DAY
    tier = lodged(house.root, 1)
    assert of(house, 1).last_used > started - 1
    age(tier.path, 20)
    for block in blocks:
        tier.read(name_of(block.head), space(1).digest)
    assert of(house, 1).last_used < started - 19 * DAY
    tier.close()
    assert of(house, 1).last_used > started - 1


# ---- deleting -----------------------------------------------------------------------------------


def test_a_namespace_that_another_process_uses_stays(house: House) -> None:
    filled(house, 2)
    with lodger(house.root, 1) as process:
        one = of(house, 1)
        assert one.is_in_use
        assert not house.delete(one, 0.0)
        assert [gone.path for gone in house.prune(-DAY)] == [path_of(house, 2)]
        process.kill()  # and it has no chance to say that it is gone
        process.wait()
    assert not of(house, 1).is_in_use
    assert house.delete(of(house, 1))
    assert list(house.root.iterdir()) == []


def test_nobody_loses_a_block_to_whoever_deletes_beside_him(house: House) -> None:
    wanted, gone = scaled(10, 200), 0
    with lodger(house.root, 1, "comes") as process:
        while gone < wanted and process.poll() is None:
            gone += sum(house.delete(one, 0.0) for one in house.directories())
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        lost = process.stdout.read().split()
        process.wait()
    assert gone == wanted
    assert process.returncode == 0
    assert set(lost) <= {"0"}
    assert not list(house.root.glob(".gone-*"))


def test_what_a_crash_leaves_of_a_deletion_is_swept(house: House) -> None:
    filled(house, 1)
    code = (
        "import os, pathlib, shutil\n"
        "from samovar.cache.house import House\n"
        "shutil.rmtree = lambda *_, **__: os._exit(9)\n"
        f"house = House(pathlib.Path({str(house.root)!r}))\n"
        "house.delete(house.directories()[0])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    (left,) = house.root.iterdir()
    assert left.name.startswith(".gone-")
    assert house.directories() == []
    tier = lodged(house.root, 1)
    assert tier.listed.entries == []
    assert list(house.root.iterdir()) == [tier.path]


def test_opening_what_is_being_deleted_for_ever_is_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = lodge(house.root, space(1), 2**20, is_durable=False)
    monkeypatch.setattr("samovar.cache.files.presence.Presence.enter", lambda *_: False)
    with pytest.raises(DiskRefused, match="being deleted"):
        tier.open()


def test_what_is_no_namespace_of_ours_is_never_touched(house: House, tmp_path: Path) -> None:
    filled(House(tmp_path), 1, days=99)
    (path_of(House(tmp_path), 1)).rename(tmp_path / "kept")
    house.root.mkdir()
    strange = [house.root / name for name in ("notes", "0" * 32, "1" * 32, "2" * 32, ".gone-mine")]
    for folder in (strange[0], strange[1], strange[4]):
        folder.mkdir()
        (folder / "file").write_text("mine")
    strange[2].symlink_to(tmp_path / "kept")
    strange[3].write_text("mine")
    house.sweep()
    assert house.directories() == []
    assert house.prune(-DAY) == []
    assert house.shrink(0) == 0
    lodge(house.root, space(1), 1, is_durable=False)
    assert {each for each in strange if each.is_symlink() or each.exists()} == set(strange)
    assert len(list((tmp_path / "kept" / "blocks").iterdir())) == 10


# ---- those that nobody uses ---------------------------------------------------------------------


def test_who_opens_one_deletes_those_that_nobody_used_for_a_month(house: House) -> None:
    days = UNUSED_SECONDS / DAY
    for number in (1, 2, 3, 4, 5):
        filled(house, number)
    for number, more in ((1, 1), (2, -1), (3, 9), (4, 9), (5, 9)):
        age(path_of(house, number), days + more)
    pinned = path_of(house, 3) / "pins" / ("0" * 64)
    pinned.touch()
    with lodger(house.root, 4):
        age(path_of(house, 4), days + 9)
        assert there(house) == {2, 3, 4}  # the others went when it came
        age(path_of(house, 2), days + 1)
        tier = lodged(house.root, 2)  # one's own is not deleted, however old
        assert len(tier.listed.entries) == 10
        assert there(house) == {2, 3, 4}
        tier.close()


def test_a_new_one_gets_a_quarter_if_others_can_go(house: House) -> None:
    for number in (1, 2, 3, 4):
        filled(house, number, days=10 - number)
    size = of(house, 1).used_bytes
    (path_of(house, 1) / "pins" / ("0" * 64)).touch()
    total = int(4.4 * size)
    with lodger(house.root, 2):
        tier = lodge(house.root, space(5), total, is_durable=False)
        # 1 is pinned and 2 in use; 3 is unused for longer than 4, and its room is enough.
        assert there(house) == {1, 2, 4}
        assert tier.budget == total - house.used_bytes()
        assert tier.budget >= total // 4


def test_with_room_for_all_none_goes(house: House) -> None:
    for number in (1, 2, 3):
        filled(house, number, days=10 - number)
    size = of(house, 1).used_bytes
    tier = lodge(house.root, space(5), 4 * size, is_durable=False)
    assert there(house) == {1, 2, 3}
    assert tier.budget == size


# ---- the budget of them all ---------------------------------------------------------------------


def test_the_sum_never_exceeds_the_budget(house: House) -> None:
    total = 300_000
    tiers: dict[int, HousedTier] = {}
    mine: dict[int, list[Block]] = {number: [] for number in (1, 2, 3)}
    most = 0
    for turn in range(scaled(30, 600)):
        number = 1 + turn % 7 % 3
        if number not in tiers:
            tiers[number] = lodged(house.root, number, total)
        tier = tiers[number]
        blocks = chain(4, 3000 + 700 * (turn % 5), seed=turn, namespace=space(number))
        done = tier.publish(blocks, evict=names(mine[number])[::-1]).done
        mine[number] = [*mine[number], *(b for b in blocks if name_of(b.head) in {*dict(done)})]
        most = max(most, measured_sum(house))
        if turn % 11 == 10:
            tiers.pop(number).close()
    assert total // 2 < most <= total


def test_a_lower_budget_that_is_set_holds_and_a_higher_one_does_not_lift_the_sum(
    house: House,
) -> None:
    filled(house, 1)
    tier = lodged(house.root, 2, 500_000)
    left = 500_000 - of(house, 1).used_bytes
    assert tier.budget == left
    tier.budget = 10
    assert tier.budget == 10
    assert [one.cause for one in tier.publish(chain(1, namespace=space(2))).refused] == ["budget"]
    tier.budget = 10**9
    assert tier.budget == left


# ---- down to a size -----------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.9, 0.6, 0.3, 0.1])
def test_shrinking_takes_the_longest_unused_first_and_leaves_before_parents(
    house: House, part: float
) -> None:
    for number in (1, 2, 3):
        filled(house, number, 20, days=10 - number)
    before = measured_sum(house)
    target = int(part * before)
    assert house.shrink(target) == before - measured_sum(house)
    assert target - 2 * 8192 <= measured_sum(house) <= target
    whole = [
        number for number in there(house) if house.contents(of(house, number)).num_blocks == 20
    ]
    assert whole == [number for number in (1, 2, 3) if number > 3 - len(whole)]
    for number in there(house):
        tier = lodged(house.root, number)
        assert unchained(tier.listed) == []
        assert tier.check(deep=True) == []
        tier.close()


def test_what_is_pinned_survives_and_what_was_used_goes_later(house: House) -> None:
    blocks = filled(house, 1, 6)
    tier = lodged(house.root, 1)
    other = chain(6, 5000, seed=1, namespace=space(1))
    tier.publish(other)
    tier.pin(blocks[2].head.key)
    tier.save_usage({other[-1].head.key: (9.0, time.time_ns() / 1e9)})
    tier.close()
    used = house.used_bytes()
    house.shrink(used - 3 * 8192)
    assert not any(file_of(tier, block).exists() for block in blocks[3:])
    assert all(file_of(tier, block).exists() for block in other)
    house.shrink(0)
    assert [file_of(tier, block).exists() for block in blocks] == [True] * 3 + [False] * 3
    assert not any(file_of(tier, block).exists() for block in other)


def test_shrinking_what_is_in_use_costs_its_user_misses_and_no_more(house: House) -> None:
    tier = lodged(house.root, 1)
    blocks = chain(8, 5000, namespace=space(1))
    tier.publish(blocks)
    house.shrink(house.used_bytes() - 3 * 8192)
    scan = tier.rescan()
    assert scan is not None
    assert {entry.name for entry in scan.entries} == {*names(blocks[:5])}
    assert not tier.publish(blocks).refused
    assert tier.check(deep=True) == []


# ---- checking -----------------------------------------------------------------------------------


def test_a_bad_block_is_found_and_repaired(house: House) -> None:
    blocks = filled(house, 1)
    file = path_of(house, 1) / "blocks" / str(name_of(blocks[4].head))
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    one = of(house, 1)
    assert house.check(one, deep=False, repairs=False).problems == []
    found = house.check(one, deep=True, repairs=False)
    assert [problem.where for problem in found.problems] == [f"blocks/{file.name}"]
    assert found.left == found.problems
    repaired = house.check(one, deep=True, repairs=True)
    assert repaired.problems == found.problems
    assert repaired.left == []
    assert not file.exists()
    assert house.check(one, deep=True, repairs=False).problems == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": "another"}', "\xff"])
def test_a_namespace_that_nobody_knows_is_said_and_can_be_deleted(house: House, text: str) -> None:
    filled(house, 1)
    (path_of(house, 1) / "namespace.json").write_bytes(text.encode("latin-1"))
    one = of(house, 1)
    assert house.namespace(one) is None
    found = house.check(one, deep=True, repairs=True)
    assert [problem.kind for problem in found.left] == ["unknown"]
    assert house.shrink(0) > 0
    assert house.directories() == []
