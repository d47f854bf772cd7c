"""The model that most tests of the library use: loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import samovar
from samovar.config import CacheConfig
from samovar.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """samovar-mini with a cache of its own."""
    cache = CacheConfig(
        directory=tmp_path_factory.mktemp("kv"), block_size=16, min_tokens=16, memory_bytes=2**24
    )
    with samovar.load(
        "samovar-mini", cache=cache, threads=1, context_length=512, num_sequences=4
    ) as loaded:
        yield loaded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test keeps a cache of its own."""
    return tmp_path / "kv"
