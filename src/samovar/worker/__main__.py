"""`python -m samovar.worker FD`, or by hand: `python -m samovar.worker MODEL PROMPT`."""

from __future__ import annotations

import logging
import sys

from samovar.config import CacheConfig, WorkerConfig
from samovar.types import GenerateRequest
from samovar.worker.loading import load
from samovar.worker.main import serve


def main(arguments: list[str]) -> int:
    """Serve a socket, or answer one prompt on the terminal: what a worker does, without a wall."""
    logging.basicConfig(level=logging.WARNING, format="samovar worker: %(levelname)s: %(message)s")
    if len(arguments) == 1 and arguments[0].isdigit():
        return int(serve(int(arguments[0])))
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m samovar.worker FD | MODEL PROMPT\n")
        return 2
    served = load(arguments[0], WorkerConfig(), CacheConfig(), lambda _: None)
    served.engine.submit(GenerateRequest("by-hand", arguments[1], max_tokens=64))
    while not served.engine.is_idle:
        for event in served.engine.step():
            sys.stdout.write(f"{event}\n")
    served.engine.close()
    served.close()
    return 0


raise SystemExit(main(sys.argv[1:]))
