"""Several tiers in one directory: what each sees of the others, and how they take turns."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from samovar.cache.files.names import name_of
from samovar.cache.files.tier import Missing
from samovar.cache.keys import ROOT
from tests.cache.directories import (
    MODEL,
    Watched,
    causes,
    chain,
    locked,
    measured,
    names,
    opened,
    same,
    whole,
)

SALTED = MODEL.under(salt="somebody")


def test_what_others_published_is_found_without_listing(root: Path) -> None:
    one, other, blocks = opened(root), opened(root), chain(3)
    done = other.publish(blocks[:2]).done
    assert one.find(names(blocks)) == done


def test_a_directory_is_listed_again_only_when_others_changed_it(root: Path) -> None:
    one, other, blocks = opened(root), opened(root), chain(6)
    assert one.rescan() is None
    one.publish(blocks[:1])
    one.delete(names(blocks[:1]))
    one.publish(blocks[:3])
    assert one.rescan() is None
    other.publish(blocks[3:5])
    one.publish(blocks[5:])
    scan = one.rescan()
    assert scan is not None
    assert {entry.name for entry in scan.entries} == set(names(blocks))
    assert scan.used_bytes == one.used_bytes()
    assert one.rescan() is None
    other.add_scope(SALTED)
    other.save_usage({ROOT: (1.0, 1.0)})
    assert one.rescan() is None
    other.delete(names(blocks[5:]))
    scan = one.rescan()
    assert scan is not None
    assert len(scan.entries) == 5


def test_files_that_were_copied_here_are_found(root: Path, tmp_path: Path) -> None:
    files, blocks = opened(root), chain(3)
    source = opened(tmp_path / "source")
    source.publish(blocks)
    os.utime(files.path / "blocks", ns=(1, 1))  # as if all this took longer than the clock's tick
    for path in (source.path / "blocks").iterdir():
        (files.path / "blocks" / path.name).write_bytes(path.read_bytes())
    scan = files.rescan()
    assert scan is not None
    assert len(scan.entries) == 3
    assert same(files.read(name_of(blocks[2].head), MODEL.digest), blocks[2])


def test_what_was_deleted_is_missing_for_all(root: Path) -> None:
    one, other, blocks = opened(root), opened(root), chain(3)
    one.publish(blocks)
    assert other.delete(names(blocks[1:])) == names(blocks[1:])
    assert other.delete(names(blocks[1:])) == names(blocks[1:])
    with pytest.raises(Missing, match="vanished"):
        one.read(name_of(blocks[2].head), MODEL.digest)
    assert [entry.name for entry in whole(root).entries] == names(blocks[:1])


def test_foreign_things_are_left_alone(root: Path) -> None:
    files = opened(root)
    files.publish(chain(2))
    folder = files.path / "blocks"
    (folder / "README").write_text("mine")
    (folder / str(name_of(chain(1, seed=5)[0].head))).mkdir()
    os.mkfifo(folder / str(name_of(chain(1, seed=6)[0].head)))
    (folder / str(name_of(chain(1, seed=7)[0].head))).symlink_to("README")
    scan = files.open()
    assert len(scan.entries) == 2
    assert scan.foreign == 4
    problems = files.check(deep=True)
    assert [problem.kind for problem in problems] == ["foreign"] * 4
    assert files.repair(problems) == 0
    assert len(list(folder.iterdir())) == 6
    assert files.used_bytes() >= measured(files.path) - 4096  # the foreign directory's own page


def test_the_lock_is_not_waited_for_without_end(root: Path) -> None:
    clock = iter(range(10_000))
    io, blocks = Watched(), chain(2)
    io.now, io.pause = lambda: float(next(clock)), lambda _: None
    impatient = opened(root, io=io)
    impatient.publish(blocks[:1])
    with locked(impatient):
        assert causes(impatient, blocks) == ["locked", "locked"]
        assert impatient.delete(names(blocks)) == []
        assert not impatient.save_usage({})
        assert not impatient.add_scope(SALTED)
        assert impatient.repair([]) == 0
        assert impatient.check(deep=True) == []
        assert same(impatient.read(name_of(blocks[0].head), MODEL.digest), blocks[0])
        assert [entry.name for entry in impatient.open().entries] == names(blocks[:1])
    assert causes(impatient, blocks) == []


def test_whoever_waits_for_the_lock_gets_it_next(root: Path) -> None:
    order, waits = list[str](), threading.Event()

    def note(who: str) -> Callable[..., None]:
        def noted(call: str, _: object) -> None:
            if call == "pause":
                waits.set()
            elif call == "writev":
                order.append(who)

        return noted

    patient, hasty = (opened(root, io=Watched(note(who))) for who in ("patient", "hasty"))
    order.clear()
    thread = threading.Thread(target=patient.publish, args=[chain(1)])
    with locked(hasty):
        thread.start()
        assert waits.wait(20)
    hasty.publish(chain(1, seed=1))
    thread.join()
    assert order == ["patient", "hasty"]


def test_a_removed_lock_locks_nobody_out_and_lets_nobody_in(root: Path) -> None:
    one, other = opened(root), opened(root)
    one.publish(chain(1))
    (one.path / "lock").unlink()
    assert causes(other, chain(2)) == []
    clock = iter(range(10_000))
    io = Watched()
    io.now, io.pause = lambda: float(next(clock)), lambda _: None
    third = opened(root, io=io)
    with locked(one):
        assert causes(third, chain(2)) == ["locked", "locked"]
    whole(root)
