"""The engine beside its peers, and its promise.

    python -m benchmarks.engine bookkeeping
    python -m benchmarks.engine prefill MODEL --peers FOLDER
    python -m benchmarks.engine decode MODEL --peers FOLDER [--sequences 1 4 8 16]
    python -m benchmarks.engine holes MODEL [--peers FOLDER]
    python -m benchmarks.engine gap MODEL [--peers FOLDER]
    python -m benchmarks.engine schema MODEL
    python -m benchmarks.engine layouts MODEL
    python -m benchmarks.engine calls MODEL

`bookkeeping`: CPU time of a step beyond the backend, on the backend without weights.
`prefill` and `decode`: tokens per second beside llama-bench (pp512) and llama-batched-bench, in
turn, as the median of the pairs' ratios. `holes`: decode of 8 sequences that are left of 16 after
half of them went at random, beside 8 that were alone from the start. `gap`: the worst time between
two tokens of 4 sequences while a prompt of 4,096 tokens is computed, beside the promise, and the
same of llama-server. `schema`: tokens per second of a request under a JSON schema beside a free
one. `layouts`: decode in lanes and in a pool. `calls`: decode rows and a piece of a prompt in one
decode call and in two. Models: see docs/benchmarks.md. FOLDER holds the binaries of llama.cpp,
built from the source that llama-cpp-python carries.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.gap import gap
from benchmarks.layouts import calls, layouts
from benchmarks.measure import (
    FREE,
    Report,
    batched_bench,
    emptied,
    in_turn,
    opened,
    peer,
    prompt,
    rate,
    ratios,
    started,
    stepped,
)
from samovar.engine.engine import Engine
from samovar.native.context import default_threads
from samovar.native.interface import Backend, Row
from samovar.native.llama import LlamaBackend
from samovar.native.weightless import WeightlessBackend
from samovar.types import GenerateRequest, Grammar, SamplingParams, TextDelta

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


def bookkeeping(args: argparse.Namespace) -> Report:
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


def prefill(args: argparse.Namespace) -> Report:
    """Prompts of 512 tokens, until their first token is there, beside llama-bench."""
    with opened(args, 1, 768) as backend:  # llama-bench's context is just as long as its prompt
        engine = Engine(backend)
        _prefill_once(engine, -1)  # faults the weights in
        return ratios(
            in_turn(
                args.runs,
                lambda run: _prefill_once(engine, run),
                lambda _: _llama_bench(args, ["-p", "512", "-n", "0"]),
            )
        )


def _prefill_once(engine: Engine, seed: int) -> float:
    engine.submit(GenerateRequest("p", prompt(512, seed), FREE, max_tokens=1))
    before = time.perf_counter()
    engine.run()
    return 512 / (time.perf_counter() - before)


def _llama_bench(args: argparse.Namespace, what: list[str]) -> float:
    done = peer(args, "llama-bench", [*what, "-r", "1", "-o", "json"])
    return float(json.loads(done)[0]["avg_ts"])


def decode(args: argparse.Namespace) -> Report:
    """Tokens per second of all sequences together, beside llama-batched-bench."""
    return {f"{count} sequences": _decode(args, count) for count in args.sequences}


def _decode(args: argparse.Namespace, count: int) -> Report:
    with opened(args, count, 512) as backend:
        _packed(backend, count, 2)  # faults the weights in
        return ratios(
            in_turn(
                args.runs,
                lambda _: _packed(backend, count, args.tokens),
                lambda _: batched_bench(args, count),
            )
        )


def _packed(backend: LlamaBackend, count: int, steps: int) -> float:
    engine = emptied(backend)
    started(engine, count)
    found = rate(engine, steps)
    engine.close()
    return found


def holes(args: argparse.Namespace) -> Report:
    """8 sequences that are left of 16, beside 8 that were alone from the start, and the peer's."""
    with opened(args, 16, 512) as backend:
        _packed(backend, 8, 2)
        pairs = in_turn(
            args.runs,
            lambda run: _left(backend, run, args.tokens),
            lambda _: _packed(backend, 8, args.tokens),
        )
        report: Report = {"beside packed": ratios(pairs, ("with_holes", "packed"))}
        if args.peers:
            report["beside llama-batched-bench"] = ratios(
                in_turn(
                    args.runs,
                    lambda run: _left(backend, run, args.tokens),
                    lambda _: batched_bench(args, 8),
                )
            )
    return report


def _left(backend: LlamaBackend, run: int, steps: int) -> float:
    engine = emptied(backend)
    started(engine, 16)
    for number in random.Random(run).sample(range(16), 8):
        engine.cancel(f"r{number}")
    stepped(engine)
    found = rate(engine, steps)
    engine.close()
    return found


# ---- schemas ------------------------------------------------------------------------------------


def schema(args: argparse.Namespace) -> Report:
    """One sequence under a JSON schema, beside a free one, both sampled.

    A schema forces tokens, which are computed together. So the times of a step are told too.
    """
    free = SamplingParams(ignore_eos=True, temperature=0.8, top_k=40, seed=1)
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    bound = SamplingParams(grammar=grammar, temperature=0.8, top_k=40, seed=1)
    steps: dict[str, list[float]] = {"bound": [], "free": []}
    with opened(args, 1, 2048) as backend:
        _sampled(backend, free, 4, [])
        pairs = in_turn(
            args.runs,
            lambda _: _sampled(backend, bound, args.tokens, steps["bound"]),
            lambda _: _sampled(backend, free, args.tokens, steps["free"]),
        )
    medians = {name: round(statistics.median(took) * 1e3, 2) for name, took in steps.items()}
    return {**ratios(pairs, ("bound", "free")), "milliseconds_per_step": medians}


def _sampled(
    backend: LlamaBackend, params: SamplingParams, tokens: int, took: list[float]
) -> float:
    engine = emptied(backend)
    engine.submit(GenerateRequest("s", prompt(16), params, max_tokens=tokens + 1))
    found = 0
    stepped(engine)  # compiles the schema, computes the prompt
    before = time.perf_counter()
    while not engine.is_idle:
        began = time.perf_counter()
        found += sum(len(e.tokens) for e in stepped(engine) if isinstance(e, TextDelta))
        took.append(time.perf_counter() - began)
    return found / (time.perf_counter() - before)


COMMANDS: dict[str, Callable[[argparse.Namespace], Report]] = {
    "bookkeeping": bookkeeping,
    "prefill": prefill,
    "decode": decode,
    "holes": holes,
    "gap": gap,
    "schema": schema,
    "layouts": layouts,
    "calls": calls,
}
NEED_PEERS = ("prefill", "decode")


def parser() -> argparse.ArgumentParser:
    """Everything but what is measured and of which model."""
    found = argparse.ArgumentParser(add_help=False)
    found.add_argument("--peers", help="folder of llama.cpp's binaries")
    found.add_argument("--sequences", type=int, nargs="+", default=[1, 4, 8, 16])
    found.add_argument("--layout", choices=("lanes", "pool"), default="lanes")
    found.add_argument("--threads", type=int, default=default_threads())
    found.add_argument("--tokens", type=int, default=48, help="decoded in a run, per sequence")
    found.add_argument("--prompt", type=int, default=4096, help="tokens of the long one of `gap`")
    found.add_argument("--runs", type=int, default=5)
    found.add_argument("--server-options", nargs="+", default=[], help="more for llama-server")
    return found


def measured(name: str, args: argparse.Namespace) -> Report:
    """One measurement, with what one must know of its circumstances."""
    before = os.getloadavg()[0]
    report = COMMANDS[name](args)
    report["measurement"] = name
    report["model"] = args.model and Path(args.model).name
    report["load_average"] = [round(before, 2), round(os.getloadavg()[0], 2)]
    return report


def main() -> None:
    """Parse the command line, measure, print one JSON object."""
    description = (__doc__ or "").splitlines()[0]
    command_line = argparse.ArgumentParser(description=description, parents=[parser()])
    command_line.add_argument("measurement", choices=COMMANDS)
    command_line.add_argument("model", nargs="?")
    args = command_line.parse_args()
    if args.measurement in NEED_PEERS and not args.peers:
        command_line.error(f"{args.measurement} needs --peers")
    json.dump(measured(args.measurement, args), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
