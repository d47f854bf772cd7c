"""A process whose children end without warning at every call of the system, one child a call.

    python -m tests.cache.crashing FOLDER OPERATION

Makes FOLDER/PLACE-died and FOLDER/PLACE-survived for each call that the operation makes, and prints
how many there are. In each of them a child carried the operation out up to that call; in the second
another process, which had the directory open all the time, went on after it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from samovar.cache.block import ROWS, BadBlock
from samovar.cache.files.names import name_of
from samovar.cache.files.tier import FileTier, Missing
from samovar.cache.keys import ROOT
from tests.cache.directories import (
    MODEL,
    Watched,
    alike,
    chain,
    file_of,
    measured,
    mixed,
    names,
    tier,
)

CRASHED = 77
SALTED = MODEL.under(salt="somebody")
FIRST = mixed(3)
SECOND = [*chain(3, after=FIRST[2]), alike(FIRST[2], ROWS, 1000, logits=20)]
BAD = chain(1, seed=8)[0]  # its last byte will be another one
OLD, NEW = {ROOT: (1.0, 2.0)}, {b"n" * 32: (3.0, 4.0)}


def evicting(files: FileTier) -> None:
    """Publish where everything else has to go for it."""
    files.budget = files.used_bytes() + 4096
    leaves = [block for block in FIRST if block.head.kind != ROWS]
    files.publish(SECOND, evict=names(leaves))


def reading(files: FileTier) -> None:
    """Read a bad block, which goes to quarantine."""
    with contextlib.suppress(BadBlock, Missing):
        files.read(name_of(BAD.head), MODEL.digest)


OPERATIONS: dict[str, Callable[[FileTier], object]] = {
    "publish": lambda files: files.publish(SECOND),
    "publish and evict": evicting,
    "delete": lambda files: files.delete(names(FIRST[::-1][:4])),
    "save usage": lambda files: files.save_usage(NEW),
    "add scope": lambda files: files.add_scope(SALTED),
    "read what is bad": reading,
    "open": lambda files: files.open(),
    "repair": lambda files: files.repair(files.check(deep=True)),
}


def prepared(root: Path, io: Watched) -> FileTier:
    """A directory with something of everything in it."""
    files = tier(root, io=io)
    files.open()
    files.publish([*FIRST, BAD])
    files.save_usage(OLD)
    path = file_of(files, BAD)
    path.write_bytes(path.read_bytes()[:-1] + b"!")  # of the same size, which is accounted for
    return files


def carry_out(root: Path, operation: str, end: Callable[[int], None]) -> None:
    """The operation, with a word to `end` before and after it, and after each call."""
    calls = itertools.count()
    io = Watched()
    files = prepared(root, io)
    if operation == "open":
        files.publish([alike(FIRST[2], ROWS, 1000, logits=20)])
        (files.path / "tmp" / "leaving").write_bytes(b"some")
        (files.path / "lock").write_bytes(b"")

    io.after = lambda *_: end(next(calls))
    end(-1)
    OPERATIONS[operation](files)
    end(next(calls))


def child(root: Path, operation: str, place: int) -> None:
    """Crash there."""
    pid = os.fork()
    if pid == 0:

        def end(at: int) -> None:
            if at == place:
                os._exit(CRASHED)

        carry_out(root, operation, end)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == CRASHED


def main(folder: str, operation: str) -> None:
    """See above."""
    ends: list[int] = []
    carry_out(Path(folder) / "done", operation, ends.append)
    for place in range(-1, ends[-1]):
        child(Path(folder) / f"{place}-died", operation, place)
        survivor = tier(Path(folder) / f"{place}-survived")
        survivor.open()
        child(survivor.path.parent, operation, place)
        assert survivor.publish(FIRST[:1]).refused == []
        assert list((survivor.path / "tmp").iterdir()) == []
        assert survivor.used_bytes() == measured(survivor.path)
        survivor.close()
    print(ends[-1] + 1)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
