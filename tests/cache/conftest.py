"""Where directories of blocks lie in these tests: on a real disk and in a real tmpfs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tmpfs() -> Iterator[Path]:
    """A folder in memory, which syncs in no time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="samovar-test-") as folder:
        yield Path(folder) / "cache"


@pytest.fixture(params=["disk", "tmpfs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A root that is not there yet."""
    if request.param == "disk":
        return tmp_path / "cache"
    folder: Path = request.getfixturevalue("tmpfs")
    return folder
