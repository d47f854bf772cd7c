"""The command as a person types it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

Samovar = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def samovar() -> Samovar:
    """Runs the command with these arguments; standard input is empty unless given."""

    def run(
        *args: object, stdin: bytes = b"", **more: object
    ) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "samovar", *map(str, args)]
        return subprocess.run(
            command, input=stdin, capture_output=True, timeout=120, check=False, **more
        )

    return run
