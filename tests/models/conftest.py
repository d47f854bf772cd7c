"""The shipped files, and the commands run on them as a person runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from samovar import models
from training.engine import Engine, opened

Samovar = Callable[..., subprocess.CompletedProcess[str]]
Answer = Callable[..., dict[str, Any]]


@pytest.fixture
def mini() -> Path:
    """The model."""
    path = models.path_of("samovar-mini")
    assert path is not None
    return path


@pytest.fixture
def rhymes() -> Path:
    """Its adapter."""
    path = models.path_of("samovar-mini-rhymes")
    assert path is not None
    return path


@pytest.fixture
def engine(mini: Path) -> Iterator[Engine]:
    """The model, loaded."""
    with opened(mini) as made:
        yield made


@pytest.fixture
def samovar(tmp_path: Path) -> Samovar:
    """Runs the command with these arguments, in a folder that holds nothing of ours."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "samovar", *map(str, args)],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def answer(samovar: Samovar) -> Answer:
    """What a command prints with `--json`."""

    def ask(*args: object) -> dict[str, Any]:
        done = samovar(*args, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    return ask
