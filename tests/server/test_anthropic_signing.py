"""The key that thinking is signed with: one for an installation, and nobody else's."""

from __future__ import annotations

import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from samovar.api.anthropic.signing import KEY_BYTES
from samovar.server.signing_key import signing_key

NAME = "thinking.key"


def test_it_is_made_once_and_read_again(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there"
    key = signing_key(directory)
    assert len(key) == KEY_BYTES
    assert signing_key(directory) == key
    assert signing_key(tmp_path / "other") != key
    assert stat.S_IMODE((directory / NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [one.name for one in directory.iterdir()] == [NAME]


def test_servers_that_start_together_have_the_same(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: signing_key(directory), range(64)))
    assert len(keys) == 1
    assert [one.name for one in directory.iterdir()] == [NAME]


@pytest.mark.parametrize("how", ["readable", "link", "fifo", "short", "long", "folder"])
def test_a_file_that_cannot_be_trusted_is_not_used(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = tmp_path / NAME, tmp_path / "other"
    known = b"k" * KEY_BYTES
    for one in (path, other):
        one.write_bytes(known)
        one.chmod(0o600)
    match how:
        case "readable":
            path.chmod(0o640)
        case "link":
            path.unlink()
            path.symlink_to(other)
        case "fifo":
            path.unlink()
            os.mkfifo(path, 0o600)
        case "short":
            path.write_bytes(known[:-1])
        case "long":
            path.write_bytes(known + b"k")
        case "folder":
            path.unlink()
            path.mkdir()
    with caplog.at_level(logging.WARNING):
        keys = {signing_key(tmp_path) for _ in range(2)}
    assert len(keys) == 2
    assert known not in keys
    assert "for this run of the server only" in caplog.text


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert len(signing_key(tmp_path / "file")) == KEY_BYTES
