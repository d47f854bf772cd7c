"""A worker that serves the backend without weights, and dies when a prompt says so.

Started as `python faulty_worker.py FD`; the path it is told to load is a JSON object of options:

    seconds     what a step takes at least
    times       how often a fault is carried out, over all processes of the model
    folder      where they count, and look for the file `gate`
    boots       what becomes of the first process, the second and so on (see BOOTS)
    state_kind  of the backend
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from samovar.config import CacheConfig, WorkerConfig
from samovar.errors import LoadFailed, OutOfMemory
from samovar.native.interface import Aborted, NoRoom, Row, StateKind, Stepped
from samovar.native.weightless import WeightlessBackend
from samovar.worker.loading import Served, assemble
from samovar.worker.main import serve

FAULTS = ("segv", "abort", "hang", "kill", "exit", "bug", "memory")
BOOTS = ("", "fail", "exit", "hang", "kill", "bug", "full", "gate")
"""`gate`: it waits until there is a file of that name; `full`: there is too little memory."""


_TRIGGER = re.compile(rb"\x01(%s)(\d{3})\x02" % "|".join(FAULTS).encode())


def trigger(fault: str, after: int = 0) -> bytes:
    """What a prompt contains that shall do this to its worker, so many tokens later."""
    return b"\x01%s%03d\x02" % (fault.encode(), after)


class FaultyBackend(WeightlessBackend):
    """Takes `seconds` for a step, and does to itself what the tokens of a sequence say.

    A fault is carried out as often as `times` says, over all processes: they count in a file.
    """

    def __init__(
        self,
        *,
        seconds: float,
        times: int,
        folder: Path,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**options)
        self._seconds, self._times, self._count = seconds, times, folder / "faults"

    def step(self, rows: Sequence[Row]) -> Stepped | NoRoom | Aborted:
        """See Backend."""
        time.sleep(self._seconds)
        for row in rows:
            self._look(bytes(t for t in [*self.tokens(row.seq_id), *row.tokens] if t < 256))
        return super().step(rows)

    def _look(self, text: bytes) -> None:
        found = _TRIGGER.search(text)
        if found and len(text) - found.end() >= int(found[2]) and self._may():
            commit(found[1].decode())

    def _may(self) -> bool:
        done = count(self._count)
        if done < self._times:
            with self._count.open("ab") as file:
                file.write(b"x")
        return done < self._times


def count(path: Path) -> int:
    """How many bytes a file has; none if it is not there."""
    return path.stat().st_size if path.exists() else 0


def commit(fault: str) -> None:
    """Do it."""
    match fault:
        case "segv":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "hang":
            time.sleep(3600)
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory runs out
        case "bug":
            raise RuntimeError("it was made to fail")
        case "memory":
            resource.setrlimit(resource.RLIMIT_AS, (2**20, 2**20))
            bytearray(2**30)


def boot(what: str, folder: Path) -> None:
    """What becomes of a process while it loads."""
    match what:
        case "fail":
            raise LoadFailed("it was made to fail")
        case "full":
            raise OutOfMemory("it was made to be too large")
        case "gate":
            while not (folder / "gate").exists():
                time.sleep(0.01)
        case "exit" | "hang" | "kill" | "bug":
            commit(what)


def load(
    path: str, config: WorkerConfig, cache: CacheConfig | None, on_progress: Callable[[float], None]
) -> Served:
    """A backend without weights, with the options that the path is."""
    options = json.loads(path)
    folder = Path(options["folder"])
    booted = count(folder / "boots")
    with (folder / "boots").open("ab") as file:
        file.write(b"x")
    on_progress(0.5)
    boots = options.get("boots", [])
    boot(boots[booted] if booted < len(boots) else "", folder)
    backend = FaultyBackend(
        seconds=options.get("seconds", 0.0),
        times=options.get("times", 1),
        folder=folder,
        state_kind=StateKind(options.get("state_kind", "divisible")),
        num_sequences=config.num_sequences,
        context_length=config.context_length or 512,
        batch_size=64,
    )
    return assemble(backend, None, "weightless", config, cache)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    raise SystemExit(int(serve(int(sys.argv[1]), load)))
