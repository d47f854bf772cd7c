"""Homes and caches that are missing, in the way or not to be written: said, and never fatal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Samovar, obey_file_modes
from tests.conftest import Models

HOMELESS = """
import pwd, sys
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
from samovar.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


def homeless(*args: object) -> subprocess.CompletedProcess[bytes]:
    """The command for a user without a home: no variable names one, and no file of users."""
    argv = [sys.executable, "-c", HOMELESS, *map(str, args)]
    return subprocess.run(argv, capture_output=True, timeout=120, check=False)


def test_without_a_home_commands_work_and_doctor_says_so(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert homeless("run", models(), "Once", "--max-tokens", 2).returncode == 0
    done = homeless("doctor", "--json")
    assert done.returncode == 1, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["directories"] == {"cache": None, "cache_writable": False}
    assert ["HOME" in line for line in found["advice"]] == [True]


@pytest.mark.parametrize("name", ["file", "file/below", "\udcff-file"])
def test_a_file_where_the_cache_should_be_is_found_by_doctor(
    samovar: Samovar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name.partition("/")[0]
    path.write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
    done = samovar("doctor", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["directories"]["cache_writable"] is False
    assert ["XDG_CACHE_HOME" in line for line in found["advice"]] == [True]
    assert samovar("doctor").returncode == 1


def test_a_relative_cache_is_ignored_as_the_probe_ignores_it(
    samovar: Samovar, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    found = json.loads(samovar("doctor", "--json").stdout)
    assert found["directories"] == {
        "cache": str(home / ".cache" / "samovar"),
        "cache_writable": True,
    }
    assert list((home / ".cache" / "samovar").glob("probe-*.json"))


def test_a_home_that_may_not_be_entered_stops_no_command(
    samovar: Samovar, models: Models, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    home.chmod(0)
    done = samovar("run", models(), "Once", "--max-tokens", 2, preexec_fn=obey_file_modes)
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(samovar("doctor", "--json", preexec_fn=obey_file_modes).stdout)
    assert found["directories"]["cache_writable"] is False
    home.chmod(0o700)
