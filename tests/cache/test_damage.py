"""Files that are not what they were, or what their names say: a miss, and found by a check."""

from __future__ import annotations

import os
import random
import shutil
import socket
from pathlib import Path

import pytest

from samovar.cache.block import STATE, BadBlock, Block
from samovar.cache.files.names import Name, name_of
from samovar.cache.files.tier import FileTier, Missing, Problem
from samovar.cache.keys import ROOT, Namespace
from tests.cache.directories import (
    MODEL,
    cause_of_reading,
    chain,
    file_of,
    mixed,
    names,
    opened,
    read,
    same,
    stranger,
    whole,
)
from tests.conftest import scaled

# ---- files that are not what their names say ----------------------------------------------------


def test_files_of_others_are_not_read(root: Path) -> None:
    files, blocks = opened(root), chain(2)
    files.publish(blocks)
    inode = file_of(files, blocks[0]).stat().st_ino
    wary = opened(root, io=stranger(lambda about: about.st_ino == inode))
    assert cause_of_reading(wary, blocks[0]) == "owner"
    assert same(read(wary, blocks[1]), blocks[1])


@pytest.mark.parametrize("kind", ["symlink", "dangling", "directory", "fifo", "socket", "empty"])
def test_something_else_in_place_of_a_block(root: Path, tmp_path: Path, kind: str) -> None:
    files, blocks = opened(root), chain(3)
    files.publish(blocks)
    path, other = file_of(files, blocks[1]), tmp_path / "other"
    other.write_bytes(path.read_bytes())
    path.unlink()
    {
        "symlink": lambda: path.symlink_to(other),
        "dangling": lambda: path.symlink_to("nowhere"),
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "socket": lambda: bound(path),
        "empty": path.touch,
    }[kind]()
    before = other.read_bytes()
    assert files.check(deep=True) != []
    assert cause_of_reading(files, blocks[1]) in ("symlink", "foreign", "enxio", "short")
    with pytest.raises(Missing, match="vanished"):
        read(files, blocks[1])
    assert files.publish(blocks).refused == []
    assert same(read(files, blocks[1]), blocks[1])
    assert other.read_bytes() == before


def bound(path: Path) -> None:
    """A socket; its long name is reached through a short one."""
    with socket.socket(socket.AF_UNIX) as end:
        short = Path("/proc/self/fd")
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            end.bind(str(short / str(folder) / "s"))
            (path.parent / "s").rename(path)
        finally:
            os.close(folder)


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo", "short"])
def test_publishing_replaces_what_is_no_block(root: Path, tmp_path: Path, kind: str) -> None:
    files, (block,) = opened(root), chain(1)
    path, other = file_of(files, block), tmp_path / "other"
    other.write_text("theirs")
    {
        "symlink": lambda: path.symlink_to(other),
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "short": lambda: path.write_bytes(b"short"),
    }[kind]()
    assert files.publish([block]).refused == []
    assert same(read(files, block), block)
    assert other.read_text() == "theirs"


@pytest.mark.parametrize("name", ["lock", "namespace.json", "usage", "pins/" + "ab" * 32])
def test_symlinks_in_place_of_other_files_lead_nowhere(
    root: Path, tmp_path: Path, name: str
) -> None:
    files, blocks = opened(root), chain(1)
    files.publish(blocks)
    target = tmp_path / "target"
    target.write_text("theirs")
    (files.path / name).unlink(missing_ok=True)
    (files.path / name).symlink_to(target)
    assert len(files.open().entries) == 1
    files.pin(b"\xab" * 32)
    files.save_usage({ROOT: (1.0, 2.0)})
    causes = {refusal.cause for refusal in files.publish(chain(2)).refused}
    assert causes == ({"symlink"} if name == "lock" else set())
    assert target.read_text() == "theirs"


def renamed(files: FileTier, block: Block, **changes: object) -> Name:
    """The file of a block under the name of another one; returns what it now claims to be."""
    claimed = name_of(block.head)._replace(**changes)
    file_of(files, block).rename(files.path / "blocks" / str(claimed))
    return claimed


@pytest.mark.parametrize(
    "changes",
    [
        {"key": b"k" * 32},
        {"parent": b"p" * 32},
        {"start": 1},
        {"num_tokens": 3},
        {"num_tokens": 1000},
        {"logits_bytes": 4},
        {"kind": STATE},
    ],
)
def test_a_block_under_another_name_is_not_the_block(
    root: Path, changes: dict[str, object]
) -> None:
    files, blocks = opened(root), chain(1)
    files.publish(blocks)
    claimed = renamed(files, blocks[0], **changes)
    problems = files.check(deep=False)
    assert [problem.where for problem in problems] == [f"blocks/{claimed}"]
    with pytest.raises(BadBlock):
        files.read(claimed, MODEL.digest)
    assert [entry.name for entry in whole(root).entries] == []


def test_a_block_of_another_namespace_is_none_of_ours(root: Path) -> None:
    other_model = Namespace({"weights": "00ff", "type_k": "q8_0"})
    theirs = FileTier(root, other_model, 2**30, is_durable=True)
    theirs.open()
    (their,) = chain(1, namespace=other_model)
    theirs.publish([their])
    files, (our,) = opened(root), chain(1)
    assert our.head.tokens == their.head.tokens
    stolen = theirs.path / "blocks" / str(name_of(their.head))
    shutil.copy(stolen, file_of(files, our))
    shutil.copy(stolen, files.path / "blocks")
    problems = files.check(deep=False)
    assert sorted(problem.kind for problem in problems) == ["misplaced", "namespace", "total"]
    assert cause_of_reading(files, our) == "misplaced"
    with pytest.raises(BadBlock, match="misplaced"):
        read(files, their)
    assert files.publish([our]).refused == []
    whole(root)


# ---- damage -------------------------------------------------------------------------------------


def damaged(chance: random.Random, data: bytes) -> bytes:
    """The same with some bits flipped, an end cut off or added, or a part zeroed."""
    changed = bytearray(data)
    match chance.randrange(6):
        case 0:
            del changed[chance.randrange(len(data)) :]
        case 1:
            changed += chance.randbytes(chance.randrange(1, 5000))
        case 2:
            first = chance.randrange(len(data))
            changed[first : first + 4096] = bytes(len(changed[first : first + 4096]))
        case _:
            # Half of them in the head, which is the smaller part.
            most = chance.choice([len(data), 700]) * 8
            for _ in range(chance.choice([1, 1, 2, 8])):
                place = chance.randrange(min(most, len(data) * 8))
                changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def test_damage_of_any_kind_is_a_miss_and_is_found(tmpfs: Path) -> None:
    chance, files, blocks = random.Random(5), opened(tmpfs), mixed(3)
    files.publish(blocks)
    contents = {name_of(block.head): file_of(files, block).read_bytes() for block in blocks}
    changes = 0
    for _ in range(scaled(500, 10_000)):
        block = chance.choice(blocks)
        path = file_of(files, block)
        before = contents[name_of(block.head)]
        after = damaged(chance, before)
        path.write_bytes(after)
        path.chmod(0o600)
        found = files.check(deep=True)
        wheres = [problem.where for problem in found if problem.where != "lock"]
        if after == before:
            assert wheres == []
            assert same(read(files, block), block)
            continue
        changes += 1
        assert wheres == [f"blocks/{path.name}"]
        assert cause_of_reading(files, block)
        assert not path.exists()
    assert changes > scaled(400, 8000)
    assert len(list((files.path / "quarantine").iterdir())) <= 64


def test_check_finds_all_and_repair_leaves_what_is_good(root: Path) -> None:
    chance, files, blocks = random.Random(6), opened(root), chain(60, 3000)
    files.publish(blocks)
    bad = chance.sample(blocks, 25)
    for block in bad:
        path = file_of(files, block)
        place = chance.randrange(path.stat().st_size * 8)
        data = bytearray(path.read_bytes())
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
    (files.path / "tmp" / "leaving").write_bytes(b"some")
    file_of(files, blocks[0]).chmod(0o644)
    other = opened(root.parent / "other")
    problems = files.check(deep=True)
    assert {problem.where for problem in problems if problem.kind not in ("mode", "total")} == {
        "tmp/leaving",
        *(f"blocks/{name}" for name in names(bad)),
    }
    assert Problem("mode", f"blocks/{name_of(blocks[0].head)}") in problems
    assert Problem("total", "lock") in problems
    assert files.repair(problems) == len(problems)
    assert files.check(deep=True) == []
    scan = files.rescan()
    assert scan is not None
    assert {entry.name for entry in scan.entries} == set(names(blocks)) - set(names(bad))
    assert other.check(deep=True) == []
    whole(root)


def test_quarantine_keeps_the_last_few(root: Path) -> None:
    files, blocks = opened(root), chain(100, 10)
    files.publish(blocks)
    for block in blocks:
        file_of(files, block).write_bytes(b"bad")
        assert cause_of_reading(files, block) == "short"
    kept = {path.name.rsplit(".", 1)[0] for path in (files.path / "quarantine").iterdir()}
    assert kept == {str(name) for name in names(blocks[36:])}
    whole(root)
