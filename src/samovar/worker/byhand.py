"""One prompt, answered on the terminal: what a worker does, without a wall."""

from __future__ import annotations

import sys

from samovar.config import CacheConfig, WorkerConfig
from samovar.types import GenerateRequest
from samovar.worker.loading import load


def answer(path: str, prompt: str) -> int:
    """Write every event of a request, one a line."""
    served = load(path, WorkerConfig(), CacheConfig(), lambda _: None)
    served.engine.submit(GenerateRequest("by-hand", prompt, max_tokens=64))
    while not served.engine.is_idle:
        for event in served.engine.step():
            sys.stdout.write(f"{event}\n")
    served.engine.close()
    served.close()
    return 0
