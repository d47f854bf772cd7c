"""What lanes and pool, one decode call and two cost."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time

from benchmarks.measure import (
    FREE,
    Pair,
    Report,
    decoding,
    emptied,
    in_turn,
    opened,
    prompt,
    rate,
    ratios,
    rounded,
)
from samovar.engine.engine import Engine
from samovar.native.interface import Row
from samovar.native.llama import LlamaBackend
from samovar.types import GenerateRequest

_NUM_SEQUENCES = 15
_FILLED = 1024  # tokens of each sequence
_DECODING = 4
_CHUNKS = (16, 64, 65, 256)


def layouts(args: argparse.Namespace) -> Report:
    """Decode rates in lanes and in a pool, the two in turn, every sequence 1,024 tokens long."""
    with contextlib.ExitStack() as stack:
        engines = []
        for layout in ("lanes", "pool"):
            backend = stack.enter_context(opened(args, _NUM_SEQUENCES, 2 * _FILLED, layout))
            engines.append(emptied(backend))
            _fill(engines[-1])
        report: Report = {}
        report["1 active beside 14 idle"] = _beside(engines, 1, args)
        report["15 active"] = _beside(engines, 15, args)
        for engine in engines:
            for number in range(8, _NUM_SEQUENCES):
                engine.sessions.end(f"s{number}")
            engine.step()
        report["8 active"] = _beside(engines, 8, args)
    return report


def _fill(engine: Engine) -> None:
    """Sessions keep their cells in both layouts."""
    for number in range(_NUM_SEQUENCES):
        ids = prompt(_FILLED, number)
        engine.submit(GenerateRequest(f"f{number}", ids, session=f"s{number}", prefill_only=True))
    engine.run()


def _beside(engines: list[Engine], active: int, args: argparse.Namespace) -> Report:
    lanes, pool = engines
    pairs = in_turn(
        args.runs,
        lambda _: _active(lanes, active, args.tokens),
        lambda _: _active(pool, active, args.tokens),
    )
    return ratios(pairs, ("lanes", "pool"))


def _active(engine: Engine, active: int, steps: int) -> float:
    for number in range(active):
        engine.submit(
            GenerateRequest(f"a{number}", (11,), FREE, session=f"s{number}", continues=True)
        )
    decoding(engine, active)
    found = rate(engine, steps)
    for number in range(active):
        engine.cancel(f"a{number}")
    engine.run()
    return found


def calls(args: argparse.Namespace) -> Report:
    """Milliseconds of four decode rows and a chunk of a prompt: in one call, and in two."""
    report: Report = {}
    with opened(args, _DECODING + 1, 2 * _FILLED) as backend:
        for seq_id in range(_DECODING + 1):
            for at in range(0, _FILLED, 512):
                backend.step([Row(seq_id, prompt(_FILLED, seq_id)[at : at + 512])])
        for chunk in _CHUNKS:
            pairs = _one_beside_two(backend, chunk, args.runs)
            report[f"chunk of {chunk}"] = ratios(pairs, ("one_call", "two_calls"))
    return report


def _one_beside_two(backend: LlamaBackend, chunk: int, runs: int) -> list[Pair]:
    return in_turn(
        runs,
        lambda _: _call(backend, chunk, is_one=True),
        lambda _: _call(backend, chunk, is_one=False),
    )


def _call(backend: LlamaBackend, chunk: int, *, is_one: bool) -> float:
    """Milliseconds, the median of a few; everything is taken back after each."""
    rows = [Row(seq_id, [20 + seq_id]) for seq_id in range(_DECODING)]
    piece = Row(_DECODING, prompt(chunk, 7), wants_logits=False)
    took = []
    for _ in range(3):
        before = time.perf_counter()
        if is_one:
            backend.step([*rows, piece])
        else:
            backend.step(rows)
            backend.step([piece])
        took.append(time.perf_counter() - before)
        for seq_id in range(_DECODING + 1):
            backend.seq_rm(seq_id, _FILLED)
    return rounded(statistics.median(took) * 1e3)
