"""What conversations leave in a directory, and what saving them costs those that go on."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from pathlib import Path

from benchmarks.cached import (
    FLUSH_SECONDS,
    answer,
    cached,
    folder,
    fresh,
    opened,
    opened_store,
    warm_up,
)
from benchmarks.measure import FREE, Report, decoding, in_turn, prompt, ratios, stepped
from benchmarks.talks import LONGEST, Talks, talks
from modelmaker import SHAPES, build_model
from modelmaker.shape import Shape
from samovar.cache.store import BlockStore
from samovar.config import CacheConfig
from samovar.engine.engine import Engine
from samovar.engine.scopes import Cache
from samovar.native.llama import LlamaBackend
from samovar.types import GenerateRequest, TextDelta

_SHALLOW = Shape(
    layers=2,
    width=1024,
    heads=16,
    kv_heads=16,
    feed_forward=512,
    context_length=8192,
    vocabulary_size=512,
)
"""As many bytes per token as models that people run, and computed in no time."""
_PLENTY = 2**40
_MEMORY = 2**29


# ---- bytes --------------------------------------------------------------------------------------


def trace(args: argparse.Namespace) -> Report:
    """Bytes on disk and bytes written beside those of the KV, as the operating system counts them.

    Without a model, one is made that has two layers, and blocks of a megabyte.
    `--warm` computes the system prompt alone first, as a service does that knows it.
    """
    if args.model is None:
        args.model = str(_shallow(args.folder))
    length = args.system + args.turns * (LONGEST + args.answer) + 64
    with folder(args) as directory, opened(args, 2, length) as backend:
        config = CacheConfig(directory, _MEMORY, disk_bytes=_PLENTY)
        store = opened_store(backend, config)
        before = _written()
        engine = fresh(backend, Cache(store, config))
        every = talks(args)
        sources, prompts = _served(args, engine, every)
        engine.close()
        assert store.flush(FLUSH_SECONDS)
        report = _bytes(store, directory, every, _bytes_per_token(backend))
        written = {name: count - before[name] for name, count in _written().items()}
        raw = every.num_computed * _bytes_per_token(backend)
        report["written_per_new_token"] = {k: round(v / raw, 4) for k, v in written.items()}
        report["prompt_tokens"] = prompts
        report["prompt_tokens_by_source"] = dict(sources)
        report["restored_share"] = round(sum(sources.values()) / prompts, 4)
        report["refused_blocks"] = dict(store.counters.dropped_blocks)
        store.close()
    return {"conversations": args.conversations, "turns": args.turns, **report}


def _shallow(place: Path) -> Path:
    path = place / "shallow.gguf"
    if not path.exists():
        place.mkdir(parents=True, exist_ok=True)
        SHAPES.setdefault("shallow", _SHALLOW)
        build_model(path, "llama", shape="shallow")
    return path


def _served(args: argparse.Namespace, engine: Engine, every: Talks) -> tuple[Counter[str], int]:
    """Tokens of prompts that were not computed, by source; and tokens of prompts."""
    sources, prompts = Counter[str](), 0
    if args.warm:
        engine.submit(GenerateRequest("w", every.system, FREE, prefill_only=True))
        engine.run()
    for _ in range(args.turns):
        for talk in every.round():
            found = answer(engine, talk.tokens, args.answer)
            prompts += len(talk.tokens)
            sources.update(cached(found.cached))
            talk.hear(found.tokens)
    return sources, prompts


def _bytes(store: BlockStore, directory: Path, every: Talks, per_token: int) -> Report:
    raw = every.num_computed * per_token
    rows, last = every.row_tokens * per_token, every.last_row_tokens * per_token
    return {
        "unique_tokens": every.num_computed,
        "kv_bytes_per_token": per_token,
        "raw_megabytes": round(raw / 1e6, 1),
        "stored_megabytes": round(_allocated(directory) / 1e6, 1),
        "stored_blocks": len(store.index),
        "stored_per_unique_token": round(_allocated(directory) / raw, 4),
        "whole_rows, computed": {
            "written_per_new_token": round(rows / raw, 2),
            "stored_per_unique_token, all rows": round(rows / raw, 2),
            "stored_per_unique_token, last rows": round(last / raw, 2),
        },
    }


def _allocated(directory: Path) -> int:
    """What the file system has given to a directory and everything in it, as `du` says."""
    paths = [directory, *directory.rglob("*")]
    return sum(path.lstat().st_blocks * 512 for path in paths)


def _written() -> dict[str, int]:
    """What this process has written: by its calls, and to block devices."""
    lines = Path("/proc/self/io").read_text().splitlines()
    found = dict(line.split(": ") for line in lines)
    return {"calls": int(found["wchar"]), "devices": int(found["write_bytes"])}


def _bytes_per_token(backend: LlamaBackend) -> int:
    """Of the KV rows alone."""
    backend.seq_rm(0)
    backend.prefill(prompt(2, 3))
    nbytes = backend.export_ranges(0, [(0, 1)])[0].payload.nbytes
    backend.seq_rm(0)
    return nbytes


# ---- throughput ---------------------------------------------------------------------------------


def saving(args: argparse.Namespace) -> Report:
    """Tokens per second of sequences that decode until they end, with saving to disk and without.

    What is still to be written at the end is waited for outside of the time.
    """
    count = args.sequences
    with folder(args) as directory, opened(args, count, 256 + args.tokens) as backend:
        warm_up(backend)
        config = CacheConfig(
            directory, _MEMORY, disk_bytes=_PLENTY, continued_tokens=args.continued
        )
        store = opened_store(backend, config)
        flushes: list[float] = []
        pairs = in_turn(
            args.runs,
            lambda run: _saved(args, backend, Cache(store, config), run, flushes),
            lambda run: _decoded(args, fresh(backend, None), run),
        )
        report = ratios(pairs, ("saving", "not"))
        report["sequences"], report["tokens_each"] = count, args.tokens
        report["saved_blocks_by_moment"] = dict(store.counters.saved_blocks)
        report["saved_megabytes"] = round(store.counters.saved_bytes / 1e6, 1)
        report["dropped_blocks"] = dict(store.counters.dropped_blocks)
        report["seconds_in_the_engine"] = round(store.counters.save_seconds, 3)
        report["seconds_until_durable_after_the_end"] = round(statistics.median(flushes), 3)
        store.close()
    return report


def _saved(
    args: argparse.Namespace, backend: LlamaBackend, cache: Cache, run: int, flushes: list[float]
) -> float:
    found = _decoded(args, fresh(backend, cache), run)
    before = time.perf_counter()
    assert cache.store.flush(FLUSH_SECONDS)
    flushes.append(time.perf_counter() - before)
    os.sync()  # or the other one pays for it
    return found


def _decoded(args: argparse.Namespace, engine: Engine, run: int) -> float:
    """Tokens per second until all have ended.

    Prompts differ from run to run: what was saved before is not saved again.
    """
    count = args.sequences
    for number in range(count):
        ids = prompt(64, 5000 + 100 * run + number)
        engine.submit(GenerateRequest(f"r{number}", ids, FREE, max_tokens=args.tokens))
    decoding(engine, count)
    began, tokens = time.perf_counter(), 0
    while not engine.is_idle:
        tokens += sum(len(e.tokens) for e in stepped(engine) if isinstance(e, TextDelta))
    took = time.perf_counter() - began
    engine.close()
    return tokens / took
