"""What it costs to take KV out of a context and to put it back, beside computing it.

    python -m benchmarks.state MODEL [--length 4096] [--block 128]

Prefills a prompt of random tokens, exports it in blocks, imports the blocks into another lane, and
prints milliseconds (medians) and whether the next token's logits are the same bit by bit. Model:
`python -m modelmaker llama FILE --quant Q8_0 --shape small`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from samovar.native.context import ContextOptions, default_threads
from samovar.native.interface import Row
from samovar.native.llama import LlamaBackend


def measure(args: argparse.Namespace) -> dict[str, object]:
    """One report; milliseconds."""
    options = ContextOptions(
        context_length=args.length + 64, num_sequences=2, threads=args.threads, decode_seconds=600
    )
    with LlamaBackend.open(args.model, context=options) as backend:
        rng = np.random.default_rng(0)
        tokens = rng.integers(300, backend.vocabulary.size, args.length).tolist()
        prefill = _milliseconds(lambda: backend.prefill(tokens))
        bounds = [(a, min(a + args.block, args.length)) for a in range(0, args.length, args.block)]
        ranges = backend.export_ranges(0, bounds)  # faults the buffers in
        exports, imports = [], []
        for _ in range(args.runs):
            exports.append(_milliseconds(lambda: backend.export_ranges(0, bounds)))
            imports.append(_milliseconds(lambda: backend.import_ranges(1, tokens, ranges)))
        return {
            "model": Path(args.model).name,
            "tokens": args.length,
            "megabytes": round(sum(piece.payload.nbytes for piece in ranges) / 1e6, 1),
            "prefill_ms": round(prefill, 1),
            "export_ms": round(statistics.median(exports), 1),
            "import_ms": round(statistics.median(imports), 1),
            "bit_identical": _next_logits_agree(backend, tokens[-1]),
            "load_average": os.getloadavg()[0],
        }


def _next_logits_agree(backend: LlamaBackend, token: int) -> bool:
    found = []
    for seq_id in (0, 1):
        backend.step([Row(seq_id, [token])])
        found.append(backend.logits(seq_id))
    return bool(np.array_equal(*found))


def _milliseconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return (time.perf_counter() - started) * 1e3


def main() -> None:
    """Parse the command line, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=default_threads())
    json.dump(measure(parser.parse_args()), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
