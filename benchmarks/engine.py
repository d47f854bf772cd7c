"""The engine beside its peers, and its promise.

    python -m benchmarks.engine bookkeeping
    python -m benchmarks.engine prefill MODEL --peers FOLDER
    python -m benchmarks.engine decode MODEL --peers FOLDER [--sequences 1 4 8 16]
    python -m benchmarks.engine holes MODEL
    python -m benchmarks.engine gap MODEL [--peers FOLDER]
    python -m benchmarks.engine schema MODEL

`bookkeeping`: CPU time of a step beyond the backend, on the backend without weights.
`prefill` and `decode`: tokens per second beside llama-bench (pp512) and llama-batched-bench, in
turn, as the median of the pairs' ratios. `holes`: decode of 16 sequences after half of them left
at random, beside as many that were alone from the start. `gap`: the worst time between two tokens
of 4 sequences while a prompt of 4,096 tokens is computed, beside the promise. `schema`: tokens per
second of a request under a JSON schema beside a free one. Models: see docs/benchmarks.md. FOLDER
holds the binaries of llama.cpp, built from the source that llama-cpp-python carries.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from samovar.engine.engine import Engine
from samovar.native.context import ContextOptions, default_threads
from samovar.native.interface import Backend, Row
from samovar.native.llama import LlamaBackend
from samovar.native.weightless import WeightlessBackend
from samovar.types import Event, Failed, GenerateRequest, Grammar, SamplingParams, TextDelta

FREE = SamplingParams(ignore_eos=True)
SCHEMA = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 40,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 40},
                    "age": {"type": "integer"},
                    "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}},
                },
                "required": ["name", "age", "tags"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["people"],
    "additionalProperties": False,
}


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """Ids that no other seed shares a beginning with."""
    chance = random.Random(seed)
    return tuple(chance.randrange(10, 250) for _ in range(length))


def opened(args: argparse.Namespace, sequences: int, length: int = 8192) -> LlamaBackend:
    """The model in lanes."""
    options = ContextOptions(
        context_length=length,
        num_sequences=sequences,
        layout=args.layout,
        threads=args.threads,
    )
    if args.layout == "pool":
        options = ContextOptions(
            context_length=length * sequences,
            num_sequences=sequences,
            layout="pool",
            threads=args.threads,
        )
    return LlamaBackend.open(args.model, context=options)


def started(engine: Engine, count: int, tokens: int = 16, most: int | None = None) -> None:
    """`count` sequences that decode."""
    for number in range(count):
        ids = prompt(tokens, 1000 + number)
        engine.submit(GenerateRequest(f"r{number}", ids, FREE, max_tokens=most))
    while len(engine.scheduler.running) < count or any(
        one.num_generated < 2 for one in engine.scheduler.running
    ):
        failed = [event for event in engine.step() if isinstance(event, Failed)]
        if failed:
            raise SystemExit(failed[0].message)


# ---- bookkeeping --------------------------------------------------------------------------------


class Timed:
    """A backend whose steps are timed from inside."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.seconds = 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def step(self, rows: list[Row]) -> object:
        """The backend's own, timed."""
        before = time.thread_time()
        outcome = self._backend.step(rows)
        self.seconds += time.thread_time() - before
        return outcome


def bookkeeping(args: argparse.Namespace) -> dict[str, object]:
    """Milliseconds of CPU time per step outside of the backend, by number of sequences."""
    found = {}
    for count in (1, 16, 64):
        backend = Timed(WeightlessBackend(num_sequences=count, context_length=2048, end_bias=-1e9))
        engine = Engine(backend)  # type: ignore[arg-type]
        started(engine, count)
        runs = []
        for _ in range(args.runs):
            backend.seconds, before = 0.0, time.thread_time()
            for _ in range(50):
                engine.step()
            runs.append((time.thread_time() - before - backend.seconds) / 50 * 1e3)
        found[f"{count} sequences"] = round(statistics.median(runs), 3)
    return {"milliseconds_per_step": found}


# ---- beside peers -------------------------------------------------------------------------------


def prefill(args: argparse.Namespace) -> dict[str, object]:
    """Prompts of 512 tokens, beside llama-bench."""
    pairs = []
    with opened(args, 1) as backend:
        engine = Engine(backend)
        _prefill_once(engine, 0)
        for run in range(args.runs):
            peer = _llama_bench(args, ["-p", "512", "-n", "0"])
            pairs.append((_prefill_once(engine, run + 1), peer))
    return _ratios(pairs)


def _prefill_once(engine: Engine, seed: int) -> float:
    engine.submit(GenerateRequest("p", prompt(512, seed), prefill_only=True))
    before = time.perf_counter()
    engine.run()
    return 512 / (time.perf_counter() - before)


def _llama_bench(args: argparse.Namespace, what: list[str]) -> float:
    done = _peer(args, "llama-bench", [*what, "-r", "1", "-o", "json"])
    return float(json.loads(done)[0]["avg_ts"])


def decode(args: argparse.Namespace) -> dict[str, object]:
    """Tokens per second of all sequences together, beside llama-batched-bench."""
    return {f"{count} sequences": _decode(args, count) for count in args.sequences}


def _decode(args: argparse.Namespace, count: int) -> dict[str, object]:
    pairs = []
    with opened(args, count, 512) as backend:
        engine = Engine(backend)
        started(engine, count)
        for _ in range(args.runs):
            peer = _batched_bench(args, count)
            pairs.append((_decode_once(engine, args.tokens), peer))
            if max(one.num_tokens for one in engine.scheduler.running) > 400:
                _restart(engine, count)
        engine.close()
    return _ratios(pairs)


def _restart(engine: Engine, count: int) -> None:
    for number in range(count):
        engine.cancel(f"r{number}")
    engine.run()
    started(engine, count)


def _decode_once(engine: Engine, steps: int) -> float:
    before, tokens = time.perf_counter(), 0
    for _ in range(steps):
        tokens += sum(len(e.tokens) for e in engine.step() if isinstance(e, TextDelta))
    return tokens / (time.perf_counter() - before)


def _batched_bench(args: argparse.Namespace, count: int) -> float:
    what = ["-npp", "16", "-ntg", str(args.tokens), "-npl", str(count)]
    what += ["-c", str(512 * count), "--output-format", "jsonl"]
    lines = _peer(args, "llama-batched-bench", what).splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return float(found[0]["speed_tg"])


def _peer(args: argparse.Namespace, name: str, what: list[str]) -> str:
    folder = Path(args.peers)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    threads = ["-t", str(args.threads)]
    command = [str(folder / name), "-m", args.model, *what, *threads]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    return done.stdout


def _ratios(pairs: list[tuple[float, float]]) -> dict[str, object]:
    return {
        "samovar": round(statistics.median(a for a, _ in pairs), 2),
        "peer": round(statistics.median(b for _, b in pairs), 2),
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        "ratios": [round(a / b, 3) for a, b in pairs],
    }


# ---- holes, gaps, schemas -----------------------------------------------------------------------


def holes(args: argparse.Namespace) -> dict[str, object]:
    """8 sequences that are left of 16, beside 8 that were alone from the start."""
    pairs = []
    with opened(args, 16, 512) as backend:
        for run in range(args.runs):
            engine = Engine(backend)
            started(engine, 8)
            packed = _decode_once(engine, args.tokens)
            engine.close()
            engine = Engine(backend)
            started(engine, 16)
            for number in random.Random(run).sample(range(16), 8):
                engine.cancel(f"r{number}")
            engine.step()
            pairs.append((_decode_once(engine, args.tokens), packed))
            engine.close()
            for seq_id in range(16):
                backend.seq_rm(seq_id)
    return _ratios(pairs)


def gap(args: argparse.Namespace) -> dict[str, object]:
    """The worst gap of 4 decoding sequences while a long prompt comes in, beside the promise."""
    runs = []
    with opened(args, 5) as backend:
        for run in range(args.runs):
            engine = Engine(backend)
            started(engine, 4)
            for _ in range(20):
                engine.step()
            promise = engine.costs.gap(4)
            engine.submit(GenerateRequest("long", prompt(4096, run), FREE, max_tokens=2))
            runs.append((_worst_gap(engine), promise))
            engine.close()
            for seq_id in range(5):
                backend.seq_rm(seq_id)
    return {
        "worst_gap_seconds": round(statistics.median(a for a, _ in runs), 3),
        "promise_seconds": round(statistics.median(b for _, b in runs), 3),
        "ratio": round(statistics.median(a / b for a, b in runs), 3),
        "ratios": [round(a / b, 3) for a, b in runs],
    }


def _worst_gap(engine: Engine) -> float:
    last: dict[str, float] = {}
    worst = 0.0
    is_over = False
    while not is_over:
        events: list[Event] = engine.step()
        now = time.perf_counter()
        for event in events:
            if isinstance(event, TextDelta) and event.request_id != "long":
                worst = max(worst, now - last.get(event.request_id, now))
                last[event.request_id] = now
        is_over = any(event.request_id == "long" for event in events)
    return worst


def schema(args: argparse.Namespace) -> dict[str, object]:
    """One sequence under a JSON schema, beside a free one, both sampled."""
    free = SamplingParams(ignore_eos=True, temperature=0.8, top_k=40, seed=1)
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    bound = SamplingParams(grammar=grammar, temperature=0.8, top_k=40, seed=1)
    pairs = []
    with opened(args, 1, 2048) as backend:
        for _ in range(args.runs):
            rates = []
            for params in (bound, free):
                engine = Engine(backend)
                engine.submit(GenerateRequest("s", prompt(16), params, max_tokens=args.tokens))
                engine.step()
                before = time.perf_counter()
                tokens = sum(len(e.tokens) for e in engine.run() if isinstance(e, TextDelta))
                rates.append(tokens / (time.perf_counter() - before))
            pairs.append((rates[0], rates[1]))
    return _ratios(pairs)


COMMANDS: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "bookkeeping": bookkeeping,
    "prefill": prefill,
    "decode": decode,
    "holes": holes,
    "gap": gap,
    "schema": schema,
}


def main() -> None:
    """Parse the command line, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurement", choices=COMMANDS)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--peers", help="folder of llama.cpp's binaries")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--layout", choices=("lanes", "pool"), default="lanes")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    report = COMMANDS[args.measurement](args)
    report["model"] = args.model and Path(args.model).name
    report["load_average"] = os.getloadavg()[0]
    json.dump(report, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
