"""Processes that die at any moment, and several of them in one directory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from samovar.cache.block import ROWS
from samovar.cache.files.names import Name, name_of, parse_name
from tests.cache.crashing import BAD, FIRST, NEW, OLD, OPERATIONS, SECOND
from tests.cache.directories import (
    MODEL,
    chain,
    file_of,
    measured,
    names,
    opened,
    same,
    tier,
    unchained,
    whole,
)
from tests.cache.publisher import NBYTES
from tests.conftest import ROOT as REPOSITORY
from tests.conftest import scaled

PUBLISHER = [sys.executable, "-m", "tests.cache.publisher"]


def started(root: Path, seed: str, budget: int, groups: int) -> subprocess.Popen[str]:
    command = [*PUBLISHER, str(root), seed, str(budget), str(groups)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


# ---- at every call ------------------------------------------------------------------------------


def settled(root: Path, operation: str) -> None:
    """What must hold of a directory in which a process crashed."""
    files = tier(root)
    there = {name for name, _ in files.open().entries}
    # The bad block is bad before, during and after; everything else must be whole.
    bad = {problem.where for problem in files.check(deep=True)}
    assert bad <= {f"blocks/{name_of(BAD.head)}"}
    file_of(files, BAD).unlink(missing_ok=True)
    scan = whole(root)
    assert unchained(scan) == []
    for block in (*FIRST, *SECOND):
        if name_of(block.head) in there:
            assert same(files.read(name_of(block.head), MODEL.digest), block)
    must, may = set(names(FIRST)), set(names(FIRST))
    if operation == "publish":
        may |= set(names(SECOND))
    elif operation == "publish and evict":
        may |= set(names(SECOND))
        must -= {name for name in must if name.kind != ROWS}
    elif operation == "delete":
        must -= set(names(FIRST[::-1][:4]))
    elif operation == "open":
        may.add(name_of(SECOND[-1].head))
    superseded = name_of(FIRST[2].head) if name_of(SECOND[-1].head) in there else None
    assert must - {superseded} <= there - {name_of(BAD.head)} <= may
    assert files.load_usage() in ([OLD, NEW] if operation == "save usage" else [OLD])
    # And it can be done again, by a tier that was open all the time.
    OPERATIONS[operation](files)
    assert files.publish([*FIRST, *SECOND]).refused == [] or operation == "publish and evict"
    assert files.used_bytes() == measured(files.path)
    files.close()
    whole(root)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_crash_at_any_call_leaves_nothing_or_something_complete(
    tmpfs: Path, operation: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cache.crashing", str(tmpfs), operation],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    roots = [root for root in tmpfs.iterdir() if root.name != "done"]
    assert len(roots) == 2 * int(done.stdout)
    assert len(roots) >= 8
    for root in roots:
        if root.name.endswith("died"):
            settled(root, operation)
        else:  # another process has cleared up already
            assert unchained(opened(root).open()) == []


# ---- at any moment ------------------------------------------------------------------------------


def test_what_was_reported_durable_survives_being_killed(root: Path) -> None:
    chance, promised = random.Random(1), set[Name]()
    survivor = opened(root)
    for round_ in range(scaled(3, 20)):
        lines = chance.randrange(1, 25)
        with started(root, f"killed {round_}", 2**30, 0) as process:
            assert process.stdout is not None
            reports = [process.stdout.readline() for _ in range(lines)]
            process.kill()
            reports += process.stdout.readlines()
        for line in reports:
            if line.endswith("\n"):  # the last one may have been cut off
                report = json.loads(line)
                assert report["refused"] == []
                found = [parse_name(name) for name in report["done"]]
                promised |= {name for name in found if name is not None}
        # Who had it open goes on, and clears up.
        assert survivor.publish(chain(2, seed=f"survivor {round_}")).refused == []
        assert list((survivor.path / "tmp").iterdir()) == []
        assert survivor.used_bytes() == measured(survivor.path)
    scan = whole(root)
    assert promised <= {entry.name for entry in scan.entries}
    assert unchained(scan) == []
    for name in promised:
        survivor.read(name, MODEL.digest)


def test_processes_share_a_budget(root: Path) -> None:
    budget, groups = 1_500_000, scaled(25, 150)
    processes = [started(root, seed, budget, groups) for seed in ("a", "b", "c")]
    reports = []
    for process in processes:
        output, _ = process.communicate(timeout=250)
        assert process.returncode == 0
        reports.append([json.loads(line) for line in output.splitlines()])
    assert [len(each) for each in reports] == [groups] * len(processes)
    most = max(report["most"] for each in reports for report in each)
    assert budget * 0.8 < most <= budget + NBYTES
    causes = {cause for each in reports for report in each for cause in report["refused"]}
    assert causes <= {"budget", "parent"}
    evictions = [name for each in reports for report in each for name in report["evicted"]]
    assert len(evictions) > groups
    scan = whole(root)
    assert scan.used_bytes <= budget
