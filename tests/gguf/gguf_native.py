"""A child process that uses llama.cpp, and survives in the parent's stead or does not."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType

WORKER = Path(__file__).with_name("native_worker.py")
# Loading the library takes seconds on a busy machine; a hang is forever.
PATIENCE_SECONDS = 20.0


class Native:
    """Answers `loaded`, `refused`, `no context`, or how the process died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Native:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._end(self._process)

    def ask(self, *what: Path | str) -> str:
        """Uses a model, a model and its adapter, or of a model only the `vocabulary`."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\t".join(map(os.fsencode, what)) + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_SECONDS)
        answer = process.stdout.readline().decode().strip() if ready else ""
        if answer:
            return answer
        self._process = None
        status = process.wait() if ready else None
        self._end(process)
        return "hung" if status is None else f"died with {status}"

    def _start(self) -> subprocess.Popen[bytes]:
        # Otherwise an assertion starts a debugger on the process for a backtrace.
        environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
        return subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.communicate()
