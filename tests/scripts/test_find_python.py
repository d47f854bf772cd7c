"""Which Python makes the environment, and what is said where none can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "find_python.sh"

TOO_OLD = "exit 1"
WITHOUT_VENV = 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac'
GOOD = "exit 0"


def find(folder: Path, pythons: dict[str, str], named: str = "") -> tuple[int, str, str]:
    for name, body in pythons.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", SCRIPT, named],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"python3": GOOD, "python3.12": GOOD}, "python3"),
        ({"python3": TOO_OLD, "python3.12": GOOD}, "python3.12"),
        ({"python3": WITHOUT_VENV, "python3.13": GOOD}, "python3.13"),
        ({"python": GOOD}, "python"),
    ],
)
def test_the_first_that_will_do_is_chosen(
    tmp_path: Path, pythons: dict[str, str], chosen: str
) -> None:
    assert find(tmp_path, pythons) == (0, chosen, "")


def test_the_named_one_is_used_alone(tmp_path: Path) -> None:
    pythons = {"python3": GOOD, "mine": GOOD, "old": TOO_OLD}
    assert find(tmp_path, pythons, "mine") == (0, "mine", "")
    assert find(tmp_path, {"my python": GOOD}, "my python") == (0, "my python", "")
    status, _, said = find(tmp_path, pythons, "old")
    assert status == 1
    assert said.startswith("set-up stopped: old is not a Python 3.11 or newer")


@pytest.mark.parametrize(
    ("pythons", "words"),
    [
        ({}, "no Python 3.11 or newer found: install one"),
        ({"python3": TOO_OLD}, "no Python 3.11 or newer found: install one"),
        ({"python3": WITHOUT_VENV}, "python3 has no venv module: install it"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    tmp_path: Path, pythons: dict[str, str], words: str
) -> None:
    status, chosen, said = find(tmp_path, pythons)
    assert (status, chosen) == (1, "")
    assert words in said
    assert "\n" not in said


def test_a_real_python_will_do(tmp_path: Path) -> None:
    real = f'exec "{sys.executable}" "$@"'
    assert find(tmp_path, {"python3": real}) == (0, "python3", "")
