"""A worker that serves the backend without weights, and dies when a prompt says so.

Started as `python faulty_worker.py FD`; the path it is told to load is a JSON object of options.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from samovar.config import CacheConfig, WorkerConfig
from samovar.errors import LoadFailed
from samovar.native.interface import Aborted, NoRoom, Row, StateKind, Stepped
from samovar.native.weightless import WeightlessBackend
from samovar.worker.loading import Served, assemble
from samovar.worker.main import serve

FAULTS = ("segv", "abort", "hang", "memory", "exit")


def trigger(fault: str, after: int = 0) -> bytes:
    """What a prompt contains that shall do this to its worker, so many tokens later."""
    return b"\x01%s%03d\x02" % (fault.encode(), after)


class FaultyBackend(WeightlessBackend):
    """Takes `seconds` for a step, and does to itself what the tokens of a sequence say.

    A fault is carried out as often as `times` says, over all processes: they count in a file.
    """

    def __init__(self, *, seconds: float, times: int, count: str, **options: Any) -> None:
        super().__init__(**options)
        self._seconds, self._times, self._count = seconds, times, Path(count)

    def step(self, rows: Sequence[Row]) -> Stepped | NoRoom | Aborted:
        """See Backend."""
        time.sleep(self._seconds)
        for row in rows:
            self._look(bytes(t for t in [*self.tokens(row.seq_id), *row.tokens] if t < 256))
        return super().step(rows)

    def _look(self, text: bytes) -> None:
        at = text.find(b"\x01")
        end = text.find(b"\x02", at)
        if at < 0 or end < 0:
            return
        fault, after = text[at + 1 : end - 3].decode(), int(text[end - 3 : end])
        if fault in FAULTS and len(text) - end - 1 >= after and self._may():
            commit(fault)

    def _may(self) -> bool:
        done = len(self._count.read_bytes()) if self._count.exists() else 0
        if done < self._times:
            with self._count.open("ab") as file:
                file.write(b"x")
            return True
        return False


def commit(fault: str) -> None:
    """Do it."""
    if fault == "segv":
        ctypes.string_at(0)
    elif fault == "abort":
        os.abort()
    elif fault == "hang":
        time.sleep(3600)
    elif fault == "exit":
        os._exit(7)
    elif fault == "memory":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does it


def load(
    path: str, config: WorkerConfig, cache: CacheConfig | None, on_progress: Callable[[float], None]
) -> Served:
    """A backend without weights, with the options that the path is."""
    options = json.loads(path)
    on_progress(0.5)
    match options.pop("boot", None):
        case "fail":
            raise LoadFailed("it was made to fail")
        case "exit":
            os._exit(3)
        case "hang":
            time.sleep(3600)
    backend = FaultyBackend(
        seconds=options.get("seconds", 0.0),
        times=options.get("times", 1),
        count=options.get("count", "/nonexistent"),
        state_kind=StateKind(options.get("state_kind", "divisible")),
        num_sequences=config.num_sequences,
        context_length=config.context_length or 512,
        batch_size=64,
    )
    return assemble(backend, None, "weightless", config, cache)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    raise SystemExit(int(serve(int(sys.argv[1]), load)))
