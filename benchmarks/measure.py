"""What the measurements of the engine share: models opened, sequences started, pairs compared."""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from samovar.engine.engine import Engine
from samovar.native.context import ContextOptions
from samovar.native.llama import LlamaBackend
from samovar.types import Event, Failed, GenerateRequest, SamplingParams, TextDelta

FREE = SamplingParams(ignore_eos=True)
_DISTURBED = 0.03  # of all CPUs; the kernel's own housekeeping stays below 1 %
_MOST_TRIES = 3
Report = dict[str, object]


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """Ids that no other seed shares a beginning with."""
    chance = random.Random(seed)
    return tuple(chance.randrange(10, 250) for _ in range(length))


def opened(
    args: argparse.Namespace, sequences: int, length: int = 8192, layout: str | None = None
) -> LlamaBackend:
    """The model with room for so many sequences of `length` tokens each."""
    layout = layout or args.layout
    total = length * sequences if layout == "pool" else length
    options = ContextOptions(
        context_length=total,
        num_sequences=sequences,
        layout="pool" if layout == "pool" else "lanes",
        threads=args.threads,
    )
    return LlamaBackend.open(args.model, context=options)


def emptied(backend: LlamaBackend) -> Engine:
    """A new engine on a backend whose cells are all free."""
    for seq_id in range(backend.num_sequences):
        backend.seq_rm(seq_id)
    return Engine(backend)


def started(engine: Engine, count: int, tokens: int = 16) -> None:
    """`count` sequences that decode."""
    for number in range(count):
        engine.submit(GenerateRequest(f"r{number}", prompt(tokens, 1000 + number), FREE))
    decoding(engine, count)


def decoding(engine: Engine, count: int) -> None:
    """Step until `count` sequences decode."""
    while len(engine.scheduler.running) < count or any(
        one.num_tokens - one.num_prompt < 2 for one in engine.scheduler.running
    ):
        stepped(engine)


def stepped(engine: Engine) -> list[Event]:
    """One step. A failed request ends the measurement."""
    events = engine.step()
    for event in events:
        if isinstance(event, Failed):
            raise SystemExit(event.message)
    return events


def rate(engine: Engine, steps: int) -> float:
    """Tokens per second of all sequences together."""
    before, tokens = time.perf_counter(), 0
    for _ in range(steps):
        tokens += sum(len(e.tokens) for e in engine.step() if isinstance(e, TextDelta))
    return tokens / (time.perf_counter() - before)


def peer(args: argparse.Namespace, name: str, what: list[str]) -> str:
    """What a binary of llama.cpp prints for the same model and threads."""
    folder = Path(args.peers)
    command = [str(folder / name), "-m", args.model, *what, "-t", str(args.threads)]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    return done.stdout


def batched_bench(args: argparse.Namespace, count: int) -> float:
    """Decoded tokens per second of llama-batched-bench, in lanes of 512 cells like ours."""
    what = ["-npp", "16", "-ntg", str(args.tokens), "-npl", str(count)]
    what += ["-c", str(512 * count), "--output-format", "jsonl"]
    lines = peer(args, "llama-batched-bench", what).splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    if not found:  # its log is lost when it ends within milliseconds
        raise SystemExit("llama-batched-bench printed nothing; take a larger model or more tokens")
    return float(found[0]["speed_tg"])


@dataclass(frozen=True, slots=True)
class Pair:
    """What two sides gave in turn, and what share of the CPUs others took meanwhile."""

    ours: float
    theirs: float
    others: float

    @property
    def is_undisturbed(self) -> bool:
        """One core that is busy elsewhere for a moment stalls threads that spin at a barrier."""
        return self.others <= _DISTURBED


def in_turn(runs: int, ours: Callable[[int], float], theirs: Callable[[int], float]) -> list[Pair]:
    """Pairs of measurements; disturbed ones are repeated, up to three times as many in all.

    Who goes first changes, so that a drift of the machine does not tell. Both are handed the
    number of the run.
    """
    pairs: list[Pair] = []
    for run in range(_MOST_TRIES * runs):
        if sum(pair.is_undisturbed for pair in pairs) >= runs:
            break
        others = Others()
        if run % 2:
            other = theirs(run)
            mine = ours(run)
        else:
            mine = ours(run)
            other = theirs(run)
        pairs.append(Pair(mine, other, others.share()))
    return pairs


class Others:
    """What share of all CPUs other processes have taken since this was made.

    `known`: processes that are part of the measurement.
    """

    def __init__(self, *known: int) -> None:
        self._known = tuple(Path(f"/proc/{pid}") for pid in known)
        self._began, self._foreign = time.perf_counter(), self._foreign_seconds()

    def share(self) -> float:
        """Between 0 and 1; children count as this process once they have ended."""
        elapsed = (time.perf_counter() - self._began) * (os.cpu_count() or 1)
        return max(0.0, (self._foreign_seconds() - self._foreign) / elapsed)

    def _foreign_seconds(self) -> float:
        return _busy_seconds() - sum(os.times()[:4]) - sum(map(cpu_seconds, self._known))


def cpu_seconds(folder: Path) -> float:
    """What a process, or a thread, has taken of a CPU; `folder` is its own in /proc."""
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _busy_seconds() -> float:
    """CPU seconds of everybody since the start of the machine; 0 where /proc does not tell."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0].split()
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, irq, softirq = map(int, first[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def ratios(pairs: list[Pair], names: tuple[str, str] = ("samovar", "peer")) -> Report:
    """Medians of both sides and of the pairs' ratios, of undisturbed pairs where there are any."""
    kept = [pair for pair in pairs if pair.is_undisturbed] or pairs
    return {
        names[0]: rounded(statistics.median(pair.ours for pair in kept)),
        names[1]: rounded(statistics.median(pair.theirs for pair in kept)),
        "ratio": round(statistics.median(pair.ours / pair.theirs for pair in kept), 3),
        "ratios": [round(pair.ours / pair.theirs, 3) for pair in kept],
        "disturbed_pairs_left_out": len(pairs) - len(kept),
        "cpu_of_others": round(statistics.median(pair.others for pair in kept), 3),
    }


def rounded(value: float) -> float:
    """Four digits that count."""
    return float(f"{value:.4g}")
