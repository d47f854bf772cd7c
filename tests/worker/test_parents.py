"""Whoever serves is killed: no process of a model stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.runtime.serving import process_is_there, wait_until_gone


def test_after_the_parent_was_killed_no_worker_is_left(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.worker.parent", str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    pids = [int(one) for one in process.stdout.readline().split()]
    assert len(pids) == 3
    assert all(map(process_is_there, pids))
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until_gone(pids)
