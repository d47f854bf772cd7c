"""Where directories of blocks lie in these tests: on a real disk and in a real tmpfs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samovar.cache.files.tier import FileTier


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


@pytest.fixture(autouse=True)
def closed_directories(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test opens is closed after it: thousands of them share one process."""
    made: list[FileTier] = []
    original = FileTier.__init__

    def recorded(self: FileTier, *args: Any, **more: Any) -> None:  # noqa: ANN401
        made.append(self)
        original(self, *args, **more)

    monkeypatch.setattr(FileTier, "__init__", recorded)
    yield
    for tier in made:
        if hasattr(tier, "_ledger"):
            tier.close()
