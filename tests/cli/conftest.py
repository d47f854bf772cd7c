"""The command as a person types it, in a process of its own."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

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


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of commands under test go where nobody else's are."""
    monkeypatch.setenv("SAMOVAR_CACHE_DIR", str(tmp_path_factory.mktemp("kv")))


@pytest.fixture(autouse=True)
def heeded_interrupts() -> Iterator[None]:
    """What runs in the background of a shell ignores interrupts, and its children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def obey_file_modes() -> None:
    """Let root be refused like anyone else: without the capabilities that override file modes."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; takes effect at exec
