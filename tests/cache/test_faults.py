"""Disks that fail and directories that go: a refused write or a miss, never an error."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from samovar.cache.block import ROWS, BadBlock
from samovar.cache.files.names import name_of
from samovar.cache.files.tier import DiskRefused, FileTier, Missing
from samovar.cache.keys import ROOT
from tests.cache.directories import (
    MODEL,
    Failing,
    Watched,
    alike,
    cause_of_reading,
    chain,
    descriptors,
    file_of,
    measured,
    mixed,
    names,
    opened,
    read,
    same,
    stranger,
    tier,
    unchained,
    whole,
)
from tests.conftest import scaled

ERRORS = {
    "space": errno.ENOSPC,
    "quota": errno.EDQUOT,
    "io": errno.EIO,
    "readonly": errno.EROFS,
    "files": errno.EMFILE,
}
SOME = list(ERRORS)[: scaled(3, 5)]
WRITING = ("mkdir", "writev", "pwrite", "link", "rename", "unlink", "fchmod", "fsync", "fdatasync")


# ---- the system says no -------------------------------------------------------------------------


def publish_with(root: Path, io: Failing) -> None:
    """Publish a second group while calls fail; what must hold then, holds."""
    first, before = mixed(3), descriptors()
    files = opened(root, io=io)
    assert files.publish(first).refused == []
    second = [*chain(2, after=first[2]), alike(first[1], ROWS, 1000, logits=30)]
    io.is_armed = True
    published = files.publish(second, evict=[])
    io.is_armed = False
    done = {entry.name for entry in published.done}
    refused = {name_of(refusal.block.head) for refusal in published.refused}
    assert done | refused == set(names(second))
    assert not done & refused
    assert all(refusal.cause for refusal in published.refused)
    for block in second:
        if name_of(block.head) in done:
            assert same(read(files, block), block)
    # The same tier goes on, and whoever comes next finds nothing wrong.
    assert files.publish(chain(1, seed=4)).refused == []
    assert files.used_bytes() == measured(files.path)
    scan = whole(root)
    assert done <= {entry.name for entry in scan.entries}
    assert unchained(scan) == []
    assert files.publish(second).refused == []
    files.close()
    assert descriptors() == before


def calls_of_publishing(root: Path) -> list[str]:
    io = Failing(0, lambda *_: False)
    publish_with(root, io)
    assert {"writev", "fdatasync", "link", "fsync", "unlink", "try_lock"} <= set(io.calls)
    return io.calls


@pytest.mark.parametrize("cause", SOME)
def test_any_one_call_of_publishing_may_fail(tmpfs: Path, cause: str) -> None:
    for place in range(len(calls_of_publishing(tmpfs / "none"))):
        publish_with(tmpfs / str(place), Failing(ERRORS[cause], lambda at, _, n=place: at == n))


@pytest.mark.parametrize("cause", SOME)
def test_all_calls_from_any_one_on_may_fail(tmpfs: Path, cause: str) -> None:
    for place in range(len(calls_of_publishing(tmpfs / "none"))):
        publish_with(tmpfs / str(place), Failing(ERRORS[cause], lambda at, _, n=place: at >= n))


@pytest.mark.parametrize("cause", ERRORS)
@pytest.mark.parametrize("call", ["writev", "fdatasync", "link", "fsync"])
def test_a_call_that_always_fails_refuses_with_its_cause(root: Path, call: str, cause: str) -> None:
    io = Failing(ERRORS[cause], lambda _, name: name == call)
    files, blocks = opened(root, io=io), chain(3)
    io.is_armed = True
    causes = [refusal.cause for refusal in files.publish(blocks).refused]
    assert len(causes) == 3
    assert cause in causes
    assert set(causes) <= {cause, "parent"}
    io.is_armed = False
    assert whole(root).entries == []
    assert files.publish(blocks).refused == []


@pytest.mark.parametrize("cause", SOME)
def test_any_call_of_anything_else_may_fail(tmpfs: Path, cause: str) -> None:
    blocks = mixed(3)

    def everything(files: FileTier) -> None:
        files.add_scope(MODEL.under(salt="a"))
        files.find(names(blocks))
        files.rescan()
        files.used_bytes()
        files.pin(ROOT)
        files.pins()
        files.unpin(ROOT)
        files.save_usage({ROOT: (1.0, 2.0)})
        files.load_usage()
        files.repair(files.check(deep=True))
        for block in blocks:
            try:
                assert same(read(files, block), block)
            except (Missing, BadBlock):
                continue
        files.delete(names(blocks[1:2]))

    def run(root: Path, fails: Callable[[int, str], bool]) -> int:
        io = Failing(ERRORS[cause], fails)
        files = opened(root, io=io)
        files.publish(blocks)
        io.is_armed = True
        everything(files)
        io.is_armed = False
        whole(root)
        files.close()
        return len(io.calls)

    count = run(tmpfs / "none", lambda *_: False)
    step = scaled(7, 1)
    for place in range(0, count, step):
        run(tmpfs / f"one-{place}", lambda at, _, n=place: at == n)
        run(tmpfs / f"all-{place}", lambda at, _, n=place: at >= n)


def refusal_of(files: FileTier) -> DiskRefused | None:
    try:
        files.open()
    except DiskRefused as refused:
        return refused
    return None


@pytest.mark.parametrize("cause", SOME)
def test_any_call_of_opening_may_fail(tmpfs: Path, cause: str) -> None:
    before = descriptors()
    blocks = chain(2)

    def run(root: Path, place: int) -> int:
        opened(root).close()
        io = Failing(ERRORS[cause], lambda at, _: at == place)
        files = tier(root, io=io)
        io.is_armed = True
        refused = refusal_of(files)
        io.is_armed = False
        if refused is not None:
            assert refused.cause == cause
            assert str(root) in str(refused)
            assert files.publish(blocks).refused[0].cause == "closed"
        files.open()
        assert files.publish(blocks).refused == []
        files.close()
        whole(root)
        return len(io.calls)

    for place in range(run(tmpfs / "none", -1)):
        run(tmpfs / str(place), place)
    assert descriptors() == before


@pytest.mark.parametrize("most", [1, 100, 4095])
def test_short_writes_are_continued(root: Path, most: int) -> None:
    io, blocks = Watched(), mixed(2)
    io.writev = lambda fd, pieces: os.write(fd, bytes(pieces[0][:most]))
    files = opened(root, io=io)
    assert files.publish(blocks).refused == []
    for block in blocks:
        assert same(read(files, block), block)
    whole(root)


def test_a_write_that_writes_nothing_refuses(root: Path) -> None:
    io = Watched()
    io.writev = lambda *_: 0
    refused = opened(root, io=io).publish(chain(2)).refused
    assert [refusal.cause for refusal in refused] == ["io", "parent"]
    assert whole(root).entries == []


@pytest.mark.parametrize("most", [1, 100, 4095])
def test_short_reads_are_continued(root: Path, most: int) -> None:
    io, blocks = Watched(), mixed(2)
    io.preadv = lambda fd, pieces, offset: os.preadv(fd, [pieces[0][:most]], offset)
    files = opened(root, io=io)
    files.publish(blocks)
    for block in blocks:
        assert same(read(files, block), block)


def test_no_memory_for_a_block_is_a_miss_and_no_damage(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, (block,) = opened(root), chain(1)
    files.publish([block])

    def refuse(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("samovar.cache.files.reading.np.empty", refuse)
        with pytest.raises(Missing, match="memory"):
            read(files, block)
    assert same(read(files, block), block)


# ---- directories --------------------------------------------------------------------------------


def test_a_directory_that_cannot_be_written_to_is_read(root: Path) -> None:
    blocks = chain(3)
    files = opened(root)
    files.publish(blocks[:2])
    (files.path / "tmp" / "leaving").write_bytes(b"some")

    def refuse(call: str, args: tuple[object, ...]) -> None:
        creates = call == "open" and int(str(args[1])) & (os.O_CREAT | os.O_RDWR)
        if (call in WRITING and call != "mkdir") or creates:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    poor = tier(root, io=Watched(refuse))
    assert [entry.name for entry in sorted(poor.open().entries)] == sorted(names(blocks[:2]))
    assert same(read(poor, blocks[1]), blocks[1])
    published = poor.publish(blocks)
    assert {refusal.cause for refusal in published.refused} == {"readonly"}
    assert poor.delete(names(blocks)) == []
    file_of(files, blocks[0]).write_bytes(b"bad")
    assert cause_of_reading(poor, blocks[0]) == "short"
    assert file_of(files, blocks[0]).exists()


@pytest.mark.parametrize("part", ["", "blocks", "tmp"])
def test_a_directory_without_permission_is_refused_or_refuses(root: Path, part: str) -> None:
    files, blocks = opened(root), chain(2)
    files.publish(blocks[:1])
    denied = files.path / part if part else files.path

    def refuse(call: str, args: tuple[object, ...]) -> None:
        # Whoever runs as root is refused nothing by real permissions.
        if call == "open" and args[0] == denied.name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with pytest.raises(DiskRefused) as refused:
        tier(root, io=Watched(refuse)).open()
    assert refused.value.cause == "readonly"


@pytest.mark.parametrize("part", ["", "blocks", "tmp"])
def test_a_directory_that_vanished_refuses_until_it_is_opened_again(root: Path, part: str) -> None:
    files, blocks = opened(root), chain(2)
    files.publish(blocks[:1])
    shutil.rmtree(files.path / part)
    refused = files.publish(blocks).refused
    assert {refusal.cause for refusal in refused} <= {"vanished", "parent"}
    assert refused
    if part != "tmp":
        with pytest.raises(Missing, match="vanished"):
            read(files, blocks[0])
        scan = files.rescan()
        assert scan is None or scan.entries == []
    assert len(files.open().entries) == (part == "tmp")
    assert files.publish(blocks).refused == []
    assert same(read(files, blocks[1]), blocks[1])
    whole(root)


def test_a_directory_that_was_moved_is_still_the_same(root: Path) -> None:
    files, blocks = opened(root), chain(2)
    files.path.rename(root / "elsewhere")
    assert files.publish(blocks).refused == []
    assert same(read(files, blocks[1]), blocks[1])
    assert len(files.open().entries) == 0


@pytest.mark.parametrize("part", ["..", ".", "blocks", "tmp", "pins"])
def test_directories_of_others_are_refused(root: Path, part: str) -> None:
    inode = (opened(root).path / part).stat().st_ino
    with pytest.raises(DiskRefused, match="belongs to user") as refused:
        tier(root, io=stranger(lambda about: about.st_ino == inode)).open()
    assert refused.value.cause == "owner"


@pytest.mark.parametrize("part", ["root", ".", "blocks", "tmp", "quarantine"])
def test_symlinks_in_place_of_directories_are_refused(
    root: Path, tmp_path: Path, part: str
) -> None:
    files = opened(root)
    path = root if part == "root" else files.path / part if part != "." else files.path
    shutil.rmtree(path)
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    path.symlink_to(target)
    with pytest.raises(DiskRefused) as refused:
        files.open()
    assert refused.value.cause == "symlink"
    assert list(target.iterdir()) == []
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("part", ["root", ".", "blocks"])
def test_files_in_place_of_directories_are_refused(root: Path, part: str) -> None:
    files = opened(root)
    path = root if part == "root" else files.path / part if part != "." else files.path
    shutil.rmtree(path)
    path.write_text("mine")
    with pytest.raises(DiskRefused):
        files.open()
    assert path.read_text() == "mine"
