"""Single-stream decode: Python's share of a step, and the rate beside llama-bench's.

    python -m benchmarks.decode overhead MODEL
    python -m benchmarks.decode rate MODEL --llama-bench PATH

`overhead` prints microseconds per step at which neither llama.cpp computes nor a token is picked:
the median over runs of (step - llama_decode - sample). `rate` runs llama-bench and Samovar in turn
on the same file, threads and number of tokens, and prints the median of the pairs' ratios. Models:
`python -m modelmaker llama FILE --quant Q8_0 --shape 1b`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from samovar.native import context
from samovar.native.context import ContextOptions, default_threads
from samovar.native.llama import LlamaBackend
from samovar.types import SamplingParams

SAMPLED = SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, seed=1)


class Stopwatch:
    """Time spent inside a function that is called often."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *args: object) -> object:
        """Call through and add the time."""
        started = time.perf_counter()
        result = self._function(*args)
        self.seconds += time.perf_counter() - started
        return result


@contextmanager
def timed(owner: object, name: str) -> Iterator[Stopwatch]:
    """Measure calls of `owner.name` inside the block."""
    before = getattr(owner, name)
    watch = Stopwatch(before)
    setattr(owner, name, watch)
    try:
        yield watch
    finally:
        setattr(owner, name, before)


def overhead(args: argparse.Namespace) -> dict[str, object]:
    """Microseconds per step outside of llama.cpp and of sampling, greedy and sampled."""
    options = ContextOptions(context_length=4096, threads=args.threads)
    report: dict[str, object] = {"model": Path(args.model).name, "threads": args.threads}
    with LlamaBackend.open(args.model, context=options, proves_state=False) as backend:
        report["vocabulary"] = backend.vocabulary.size
        for name, params in (("greedy", SamplingParams()), ("sampled", SAMPLED)):
            backend.configure_sampler(params)
            runs = [_overhead_once(backend, args.tokens) for _ in range(args.runs)]
            report[name] = {
                part: round(statistics.median(run[part] for run in runs), 1) for part in runs[0]
            }
    return report


def _overhead_once(backend: LlamaBackend, count: int) -> dict[str, float]:
    backend.seq_rm(0)
    backend.prefill(backend.tokenize("Once upon a time"))
    picker = backend._decode_sampler()  # noqa: SLF001 - measured from inside
    picker_sample = Stopwatch(picker.sample)
    picker.sample = picker_sample  # type: ignore[method-assign, assignment]
    with timed(context.ll, "llama_decode") as native:
        started = time.perf_counter()
        for _ in range(count):
            backend.decode_one()
        total = time.perf_counter() - started
    del picker.sample
    parts = {
        "step_us": total,
        "llama_decode_us": native.seconds,
        "sample_us": picker_sample.seconds,
        "overhead_us": total - native.seconds - picker_sample.seconds,
    }
    return {name: seconds / count * 1e6 for name, seconds in parts.items()}


def rate(args: argparse.Namespace) -> dict[str, object]:
    """Tokens per second of both, in turn, and the ratio pair by pair."""
    options = ContextOptions(context_length=512, threads=args.threads)
    pairs = []
    with LlamaBackend.open(args.model, context=options, proves_state=False) as backend:
        _rate_once(backend, args.tokens)  # faults the weights in
        for _ in range(args.runs):
            peer = _llama_bench(args)
            pairs.append((_rate_once(backend, args.tokens), peer))
    return {
        "model": Path(args.model).name,
        "threads": args.threads,
        "tokens": args.tokens,
        "samovar_tokens_per_second": round(statistics.median(a for a, _ in pairs), 2),
        "llama_bench_tokens_per_second": round(statistics.median(b for _, b in pairs), 2),
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        "ratios": [round(a / b, 3) for a, b in pairs],
        "load_average": os.getloadavg()[0],
    }


def _rate_once(backend: LlamaBackend, count: int) -> float:
    backend.seq_rm(0)
    backend.prefill(backend.tokenize("a")[:1])
    started = time.perf_counter()
    for _ in range(count):
        backend.decode_one()
    return count / (time.perf_counter() - started)


def _llama_bench(args: argparse.Namespace) -> float:
    binary = Path(args.llama_bench)
    command = [str(binary), "-m", args.model, "-p", "0", "-n", str(args.tokens)]
    command += ["-t", str(args.threads), "-r", "1", "-o", "json"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(binary.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])


def main() -> None:
    """Parse the command line, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, function in (("overhead", overhead), ("rate", rate)):
        command = commands.add_parser(name)
        command.add_argument("model")
        command.add_argument("--threads", type=int, default=default_threads())
        command.add_argument("--tokens", type=int, default=64)
        command.add_argument("--runs", type=int, default=7)
        command.set_defaults(measure=function)
    command.add_argument("--llama-bench", required=True, help="the binary")
    args = parser.parse_args()
    json.dump(args.measure(args), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
