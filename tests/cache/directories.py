"""What tests of directories of blocks share: blocks, a watched system, measures, a whole check."""

from __future__ import annotations

import fcntl
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from samovar.cache.block import ROWS, STATE, BadBlock, Block, Place, make_block
from samovar.cache.files.io import Io
from samovar.cache.files.names import Name, name_of
from samovar.cache.files.tier import FileTier, Scan
from samovar.cache.keys import ROOT, Key, Namespace, pack_tokens

MODEL = Namespace({"weights": "00ff", "type_k": "f16"})
CALLS = tuple(name for name in vars(Io) if not name.startswith("_"))
PLENTY = 2**30


def chain(
    count: int,
    nbytes: int = 8192,
    *,
    seed: int = 0,
    after: Block | None = None,
    namespace: Namespace = MODEL,
) -> list[Block]:
    """Blocks of rows that follow each other, of random tokens and contents."""
    chance = random.Random(f"{seed} {after.head.key.hex() if after else ''}")
    parent: Key = after.head.key if after else ROOT
    start = after.head.start + after.head.num_tokens if after else 0
    blocks = []
    for _ in range(count):
        tokens = [chance.randrange(2**17) for _ in range(chance.randrange(1, 129))]
        place = Place(namespace.digest, parent, start, pack_tokens(tokens))
        blocks.append(make_block(ROWS, place, memoryview(chance.randbytes(nbytes))))
        parent, start = blocks[-1].head.key, start + len(tokens)
    return blocks


def alike(block: Block, kind: str, nbytes: int, logits: int = 0) -> Block:
    """A block at the place of another one, of another kind or with logits (so many floats)."""
    head = block.head
    place = Place(head.namespace, head.parent, head.start, head.tokens)
    chance = random.Random(f"{kind} {nbytes} {logits}")
    return make_block(
        kind,
        place,
        memoryview(chance.randbytes(nbytes)),
        memoryview(chance.randbytes(4 * logits)),
    )


def mixed(count: int, seed: int = 0) -> list[Block]:
    """A chain with a state at each place, and logits at the last."""
    rows = chain(count, 1000, seed=seed)
    return [*rows, *(alike(block, STATE, 600, logits=50) for block in rows)]


def same(block: Block, other: Block) -> bool:
    """Whether two blocks say and hold the same."""
    about = [(each.head.kind, each.head.start, each.head.tokens) for each in (block, other)]
    return (
        name_of(block.head) == name_of(other.head)
        and about[0] == about[1]
        and bytes(block.payload) == bytes(other.payload)
        and bytes(block.logits) == bytes(other.logits)
    )


def tier(
    root: Path, *, budget: int = PLENTY, is_durable: bool = True, io: Io | None = None
) -> FileTier:
    """A tier that is not open."""
    return FileTier(root, MODEL, budget, is_durable=is_durable, io=io)


def opened(root: Path, **more: object) -> FileTier:
    """A tier that is."""
    files = tier(root, **more)
    files.open()
    return files


def causes(files: FileTier, blocks: list[Block], **more: object) -> list[str]:
    return [refusal.cause for refusal in files.publish(blocks, **more).refused]


def names(blocks: list[Block]) -> list[Name]:
    return [name_of(block.head) for block in blocks]


def file_of(files: FileTier, block: Block) -> Path:
    return files.path / "blocks" / str(name_of(block.head))


def measured(path: Path) -> int:
    """Bytes that a directory takes according to the system, as `du` counts them."""
    found = {(about := path.lstat()).st_ino: about.st_blocks}
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            about = (Path(folder) / name).lstat()
            found[about.st_ino] = about.st_blocks
    return sum(found.values()) * 512


def modes(path: Path) -> set[tuple[str, int]]:
    """What kinds of permissions there are."""
    found = set()
    for each in (path, *path.rglob("*")):
        about = each.lstat()
        kind = "directory" if stat.S_ISDIR(about.st_mode) else "file"
        found.add((kind, stat.S_IMODE(about.st_mode)))
    return found


def whole(root: Path) -> Scan:
    """Open a directory anew; everything that must hold then, whatever happened before, does."""
    files = tier(root)
    scan = files.open()
    assert files.check(deep=True) == []
    assert list((files.path / "tmp").iterdir()) == []
    assert files.used_bytes() == scan.used_bytes == measured(files.path)
    assert modes(files.path) <= {("directory", 0o700), ("file", 0o600)}
    files.close()
    return scan


def unchained(scan: Scan) -> list[Name]:
    """Blocks whose predecessor is not there."""
    rows = {entry.name.key for entry in scan.entries if entry.name.kind == ROWS} | {ROOT}
    found = []
    for name, _ in scan.entries:
        above = name.key if name.kind == STATE else name.parent
        if above not in rows:
            found.append(name)
    return found


@contextmanager
def locked(files: FileTier) -> Iterator[None]:
    """Another process has the lock."""
    with (files.path / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


class Watched(Io):
    """The real system; `before` hears of every call and may raise or end the process.

    `after`, if it is given, hears of every call that was made.
    """

    def __init__(
        self,
        before: Callable[[str, tuple[object, ...]], None] = lambda *_: None,
        after: Callable[[str, tuple[object, ...]], None] = lambda *_: None,
    ) -> None:
        self.before = before
        self.after = after
        for name in CALLS:
            setattr(self, name, self._watched(name, getattr(self, name)))

    def _watched(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def watched(*args: object, **more: object) -> object:
            self.before(name, (*args, *more.values()))
            result = call(*args, **more)
            self.after(name, (*args, *more.values()))
            return result

        return watched


class Failing(Watched):
    """Fails the calls that `fails` chooses, while it is armed, with one errno."""

    def __init__(self, number: int, fails: Callable[[int, str], bool]) -> None:
        super().__init__(self._maybe)
        self.number = number
        self.fails = fails
        self.is_armed = False
        self.calls: list[str] = []
        self.one_at_a_time = threading.Lock()

    def _maybe(self, name: str, args: tuple[object, ...]) -> None:
        if not self.is_armed or name in ("now", "pause"):
            return
        with self.one_at_a_time:
            self.calls.append(name)
            place = len(self.calls) - 1
        if self.fails(place, name):
            if name == "close":  # the system closes a descriptor, whatever it says of it
                os.close(int(str(args[0])))
            raise OSError(self.number, os.strerror(self.number))


def stranger(which: Callable[[os.stat_result], bool]) -> Watched:
    """A system that says that some files belong to someone else."""
    io = Watched()

    def foreign(about: os.stat_result) -> os.stat_result:
        if not which(about):
            return about
        fields = list(about)
        fields[4] += 1234
        return os.stat_result(fields, about.__reduce__()[1][1])

    fstat, status = io.fstat, io.stat
    io.fstat = lambda fd: foreign(fstat(fd))
    io.stat = lambda name, *, at: foreign(status(name, at=at))
    return io


def read(files: FileTier, block: Block) -> Block:
    return files.read(name_of(block.head), MODEL.digest)


def cause_of_reading(files: FileTier, block: Block) -> str:
    with pytest.raises(BadBlock) as bad:
        read(files, block)
    return bad.value.cause
