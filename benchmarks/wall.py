"""What the wall between processes costs: first tokens, throughput, deaths, long prompts.

    python -m benchmarks.wall [first throughput events death tokenizing loading]
        [--model FILE] [--runs 5] [--peers DIR]

Prints one JSON object a measurement. `first`, `throughput` and `events` use the backend without
weights, in process and behind the wall in turn; the others need a model. `loading` compares with
the `llama-bench` in DIR, if there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measure import FREE, Others, Report, prompt, rounded
from samovar import models
from samovar.config import CacheConfig, RuntimeConfig, WorkerConfig
from samovar.engine.engine import Engine
from samovar.native.interface import Aborted, NoRoom, Row, Stepped
from samovar.native.weightless import WeightlessBackend
from samovar.runtime.runtime import Runtime
from samovar.types import Failed, GenerateRequest, TextDelta
from samovar.worker.loading import Served, assemble
from samovar.worker.main import serve

_SEQUENCES = 16
_RATE = 1000.0  # tokens/s in all, at which the loss is to be at most 1 %
_LONG = 100_000  # tokens
_FIRSTS = 200
_USUAL = RuntimeConfig(keep_alive_seconds=None, first_backoff=0.001)
_numbers = itertools.count()


class _Paced(WeightlessBackend):
    """Takes as long for a step as a model would."""

    def __init__(self, seconds: float) -> None:
        super().__init__(num_sequences=_SEQUENCES, context_length=2048, end_bias=-1e9)
        self._seconds = seconds

    def step(self, rows: Sequence[Row]) -> Stepped | NoRoom | Aborted:
        """See Backend: what it computes is part of the time."""
        began = time.perf_counter()
        found = super().step(rows)
        left = self._seconds - (time.perf_counter() - began)
        if left > 0:
            time.sleep(left)
        return found


def _load(
    path: str, config: WorkerConfig, cache: CacheConfig | None, _: Callable[[float], None]
) -> Served:
    return assemble(_Paced(float(path)), None, "paced", config, cache)


def _paced_runtime() -> Runtime:
    command = (sys.executable, "-m", "benchmarks.wall", "worker")
    return Runtime(RuntimeConfig(command=command, keep_alive_seconds=None))


def _asked(tokens: int, length: int = 16) -> GenerateRequest:
    number = next(_numbers)
    return GenerateRequest(f"r{number}", prompt(length, number), FREE, max_tokens=tokens)


# ---- without a model -----------------------------------------------------------------------------


async def first(args: argparse.Namespace) -> Report:
    """Seconds from a request to its first token, alone."""
    here, there = [], []
    engine = Engine(_Paced(0.0))
    async with _paced_runtime() as runtime:
        await runtime.load("m", "0.0")
        for _ in range(_FIRSTS * args.runs):
            began = time.perf_counter()
            engine.submit(_asked(1))
            while not any(isinstance(e, TextDelta) for e in engine.step()):
                pass
            here.append(time.perf_counter() - began)
            began = time.perf_counter()
            there.append(await _first_of(runtime) - began)
    added = statistics.median(there) - statistics.median(here)
    return {
        "in_process_seconds": rounded(statistics.median(here)),
        "wall_seconds": rounded(statistics.median(there)),
        "added_seconds": rounded(added),
        "added_seconds_of_the_fastest_tenth": rounded(_tenth(there) - _tenth(here)),
        "target_seconds": 0.0003,
    }


async def _first_of(runtime: Runtime) -> float:
    """When the first token of a request came."""
    times = [
        time.perf_counter()
        async for event in runtime.generate("m", _asked(1))
        if isinstance(event, TextDelta)
    ]
    return times[0]


def _tenth(values: list[float]) -> float:
    return statistics.quantiles(values, n=10)[0]


async def throughput(args: argparse.Namespace) -> Report:
    """Tokens per second where the model gives 1,000 to 16 sequences, in process and behind it."""
    pause, tokens = _SEQUENCES / _RATE, args.tokens
    here, there = [], []
    async with _paced_runtime() as runtime:
        await runtime.load("m", str(pause), WorkerConfig(num_sequences=_SEQUENCES))
        for _ in range(args.runs):
            here.append(_rate_here(pause, tokens))
            there.append(await _rate_there(runtime, tokens))
    pairs = [b / a for a, b in zip(here, there, strict=True)]
    return {
        "in_process": rounded(statistics.median(here)),
        "wall": rounded(statistics.median(there)),
        "loss": round(1 - statistics.median(pairs), 4),
        "losses": [round(1 - one, 4) for one in pairs],
        "target": 0.01,
    }


async def events(args: argparse.Namespace) -> Report:
    """Tokens per second when a step takes no time, and what each costs the process that serves."""
    async with _paced_runtime() as runtime:
        await runtime.load("m", "0.0", WorkerConfig(num_sequences=_SEQUENCES))
        rates, costs = [], []
        for _ in range(args.runs):
            began = time.process_time()
            rates.append(await _rate_there(runtime, args.tokens))
            costs.append((time.process_time() - began) / (args.tokens * _SEQUENCES))
    return {
        "in_process": rounded(_rate_here(0.0, args.tokens)),
        "wall": rounded(statistics.median(rates)),
        "runtime_cpu_seconds_per_token": rounded(statistics.median(costs)),
    }


def _rate_here(pause: float, tokens: int) -> float:
    engine = Engine(_Paced(pause))
    for _ in range(_SEQUENCES):
        engine.submit(_asked(tokens))
    began = time.perf_counter()
    count = sum(len(e.tokens) for e in engine.run() if isinstance(e, TextDelta))
    return count / (time.perf_counter() - began)


async def _rate_there(runtime: Runtime, tokens: int) -> float:
    began = time.perf_counter()
    counts = await asyncio.gather(*(_count(runtime, _asked(tokens)) for _ in range(_SEQUENCES)))
    return sum(counts) / (time.perf_counter() - began)


async def _count(runtime: Runtime, asked: GenerateRequest) -> int:
    count = 0
    async for event in runtime.generate("m", asked):
        if isinstance(event, TextDelta):
            count += len(event.tokens)
    return count


# ---- with a model --------------------------------------------------------------------------------


async def death(args: argparse.Namespace) -> Report:
    """Seconds from SIGKILL to the next token of a stream: without a cache, and from the disk."""
    found: Report = {"prompt_tokens": args.prompt}
    for name in ("cold", "warm"):
        seconds, loads = [], []
        for _ in range(args.runs):
            with tempfile.TemporaryDirectory() as folder:
                cache = CacheConfig(directory=Path(folder)) if name == "warm" else None
                took, load = await _death(args, cache)
            seconds.append(took)
            loads.append(load)
        found[f"{name}_seconds"] = rounded(statistics.median(seconds))
        found[f"{name}_all"] = [rounded(one) for one in seconds]
        found["first_load_seconds"] = rounded(statistics.median(loads))
    return found


async def _death(args: argparse.Namespace, cache: CacheConfig | None) -> tuple[float, float]:
    async with Runtime(_USUAL) as runtime:
        worker = WorkerConfig(context_length=args.prompt + 512, threads=args.threads)
        began = time.perf_counter()
        await runtime.load("m", args.model, worker, cache)
        load = time.perf_counter() - began
        stream = runtime.generate("m", _asked(400, args.prompt))
        for _ in range(5):
            await anext(stream)
        await _written(runtime, args.prompt, cache)
        os.kill(runtime.status()["m"]["pid"], signal.SIGKILL)
        killed = time.perf_counter()
        while runtime.status()["m"]["restarts"] == 0:  # what had come before it died is not meant
            event = await anext(stream)
            if isinstance(event, Failed):
                raise SystemExit(event.message)
        took = time.perf_counter() - killed
        await stream.aclose()  # type: ignore[attr-defined]
        return took, load


async def _written(runtime: Runtime, tokens: int, cache: CacheConfig | None) -> None:
    """Until the prompt is on the disk."""
    while cache is not None:
        tiers = (await runtime.ask("m", "cache_info"))["tiers"]
        if tiers["disk"]["blocks"] >= tokens // cache.block_size:
            return
        await asyncio.sleep(0.02)


async def tokenizing(args: argparse.Namespace) -> Report:
    """The worst gap of four streams, alone and while a text of 100,000 tokens is tokenized."""
    async with Runtime(_USUAL) as runtime:
        worker = WorkerConfig(context_length=4096, num_sequences=5, threads=args.threads)
        await runtime.load("m", args.model, worker)
        streams = [asyncio.create_task(_times(runtime)) for _ in range(4)]
        await asyncio.sleep(args.seconds)
        text = await _text(runtime)
        alone = time.perf_counter()
        await asyncio.sleep(args.seconds)
        began, took = time.perf_counter(), []
        for _ in range(args.runs):
            asked = GenerateRequest(f"long{next(_numbers)}", text, max_tokens=1)
            started = time.perf_counter()
            async for event in runtime.generate("m", asked):
                if not isinstance(event, Failed) or event.code != "context_length_exceeded":
                    raise SystemExit("the long text was not refused after it was tokenized")
            took.append(time.perf_counter() - started)
        ended = time.perf_counter()
        for one in streams:
            one.cancel()
        times = await asyncio.gather(*streams)
    before = _worst(times, alone, began)
    beside = _worst(times, began, ended)
    return {
        "text_bytes": len(text),
        "tokenizing_seconds": rounded(statistics.median(took)),
        "worst_gap_alone_seconds": rounded(before),
        "worst_gap_beside_seconds": rounded(beside),
        "added_seconds": rounded(beside - before),
        "target_seconds": 0.02,
    }


async def _text(runtime: Runtime) -> bytes:
    """So long that it comes to 100,000 tokens."""
    piece = b"The quick brown fox, numbered 12 of 345, jumps over 67 lazy dogs. "
    count = len(await runtime.ask("m", "tokenize", text=piece * 100)) / 100
    return piece * int(_LONG / count)


async def _times(runtime: Runtime) -> list[float]:
    """When each token came, until it is cancelled."""
    found: list[float] = []
    try:
        while True:
            async for event in runtime.generate("m", _asked(3000)):
                if isinstance(event, TextDelta):
                    found.append(time.perf_counter())  # noqa: PERF401 - it may end at any of them
    except asyncio.CancelledError:
        return found


async def loading(args: argparse.Namespace) -> Report:
    """Seconds until a model can be asked: its process with all of Python, and what loads within.

    Of llama-bench, the whole run that computes one token, which it does not time itself.
    """
    whole, within, peer = [], [], []
    for _ in range(args.runs):
        async with Runtime(_USUAL) as runtime:
            worker = WorkerConfig(context_length=512, num_sequences=1, threads=args.threads)
            began = time.perf_counter()
            ready = await runtime.load("m", args.model, worker)
            whole.append(time.perf_counter() - began)
            within.append(ready.load_seconds)
        if args.peers is not None:
            peer.append(_bench_seconds(args))
    found: Report = {
        "process_and_load_seconds": rounded(statistics.median(whole)),
        "load_seconds": rounded(statistics.median(within)),
    }
    return {**found, **({"llama_bench_seconds": rounded(statistics.median(peer))} if peer else {})}


def _bench_seconds(args: argparse.Namespace) -> float:
    path = models.path_of(args.model) or args.model
    command = [args.peers / "llama-bench", "-m", path, "-p", "1", "-n", "0", "-r", "1"]
    command += ["--no-warmup", *(["-t", str(args.threads)] if args.threads else [])]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def _worst(times: Sequence[Sequence[float]], began: float, ended: float) -> float:
    gaps = [
        after - before
        for one in times
        for before, after in itertools.pairwise(one)
        if before < ended and after > began
    ]
    return max(gaps)


COMMANDS = {one.__name__: one for one in (first, throughput, events, death, tokenizing, loading)}


def main() -> None:
    """Measure, print; or be the worker of a measurement."""
    if sys.argv[1:2] == ["worker"]:
        raise SystemExit(int(serve(int(sys.argv[2]), _load)))
    line = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    line.add_argument("what", nargs="*", choices=[*COMMANDS, []], default=list(COMMANDS))
    line.add_argument("--model", help="A GGUF file, for death, tokenizing and loading.")
    line.add_argument("--peers", type=Path, metavar="DIR", help="Where llama-bench is.")
    line.add_argument("--runs", type=int, default=5)
    line.add_argument("--tokens", type=int, default=300, help="Of each sequence.")
    line.add_argument("--prompt", type=int, default=2000, help="Tokens, for death.")
    line.add_argument("--threads", type=int, default=0)
    line.add_argument("--seconds", type=float, default=5.0, help="To look at streams alone.")
    args = line.parse_args()
    for name in args.what:
        if args.model is None and name in ("death", "tokenizing", "loading"):
            continue
        others = Others()
        report = asyncio.run(COMMANDS[name](args))
        load = {"cpu_of_others": round(others.share(), 2), "load": round(os.getloadavg()[0], 1)}
        sys.stdout.write(json.dumps({name: {**report, **load}}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
