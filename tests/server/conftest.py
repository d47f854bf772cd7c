"""One server of samovar-mini for all tests that only ask it things."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from samovar.config import CacheConfig, WorkerConfig
from samovar.server.served import ServedModel
from tests.server.serving import serving


def mini(directory: Path, name: str = "samovar-mini") -> ServedModel:
    """samovar-mini, small, with a cache of its own."""
    cache = CacheConfig(directory=directory, block_size=16, min_tokens=16, memory_bytes=2**24)
    worker = WorkerConfig(threads=1, context_length=2048, num_sequences=4)
    return ServedModel(name, "samovar-mini", worker, cache)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server of samovar-mini."""
    with serving([mini(tmp_path_factory.mktemp("kv"))]) as url:
        yield url
