"""What the commands of `samovar cache` read besides what all commands do."""

from __future__ import annotations

import stat
from pathlib import Path

from samovar.cli.input import MAX_MEBIBYTES
from samovar.config import CacheConfig
from samovar.errors import InvalidRequest


def cache_config(directory: Path | None) -> CacheConfig:
    """The cache of a directory, which need not be there yet, or else the one that `run` uses.

    Raises InvalidRequest where that can be none.
    """
    try:
        config = CacheConfig() if directory is None else CacheConfig(directory=directory)
        is_usable = stat.S_ISDIR(config.directory.stat().st_mode)
    except FileNotFoundError:
        return config
    except OSError as error:
        raise InvalidRequest(
            f"{error.filename}: {error.strerror}: give another --cache-dir"
        ) from None
    if not is_usable:
        raise InvalidRequest(f"{config.directory} is no directory: give another --cache-dir")
    return config


def read_file(path: Path) -> bytes:
    """A prompt from a file. Raises InvalidRequest."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MEBIBYTES * 2**20 + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read the prompt {path}: {error.strerror}") from None
    if len(data) > MAX_MEBIBYTES * 2**20:
        raise InvalidRequest(f"the prompt {path} is more than {MAX_MEBIBYTES} MiB: split it")
    return data
