"""How a worker's threads wait is said where nobody has said it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from samovar.ipc.environment import worker_environment


def test_threads_are_told_to_spin_alone_and_not_in_company() -> None:
    found = worker_environment({"HOME": "x"})
    assert found["HOME"] == "x"
    assert found["OMP_WAIT_POLICY"] == "passive"
    assert int(found["GOMP_SPINCOUNT"]) > 0


@pytest.mark.parametrize("said", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_who_has_said_how_threads_wait_knows_better(said: str) -> None:
    found = worker_environment({said: "active"})
    assert {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & found.keys() == {said}
    assert found[said] == "active"


def test_libgomp_takes_it_as_it_is_meant() -> None:
    """It prints what it has understood, as it loads."""
    ctypes.CDLL("libgomp.so.1")
    environment = {**worker_environment(dict(os.environ)), "OMP_DISPLAY_ENV": "verbose"}
    code = "import ctypes; ctypes.CDLL('libgomp.so.1')"
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stderr
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in said
    assert "GOMP_SPINCOUNT = '300000'" in said
