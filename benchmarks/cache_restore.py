"""How long restored cells take, beside one thread's copy of the same bytes; and what it saves."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cached import (
    FLUSH_SECONDS,
    answer,
    cached,
    folder,
    fresh,
    namespace,
    opened,
    opened_store,
    warm_up,
)
from benchmarks.measure import Report, prompt, rounded
from samovar.cache.block import ROWS, Block, Place, make_block
from samovar.cache.index.node import Tier
from samovar.cache.keys import ROOT, pack_tokens
from samovar.cache.opening import open_store
from samovar.cache.store import BlockStore
from samovar.config import CacheConfig
from samovar.engine.scopes import Cache
from samovar.native.interface import Range, Row
from samovar.native.llama import LlamaBackend

_WAIT_SECONDS = 0.05
_MEMORY = 2**31
_SOURCE, _TARGET = 0, 1  # sequences
_FLOOR = 0.5  # of a copy's speed: into one blob for llama.cpp, and from there into the cells


# ---- restore ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Times:
    """Of one tier, run by run."""

    blocks: list[float] = field(default_factory=list)
    """From the lease until the last block was there."""
    cells: list[float] = field(default_factory=list)
    """From there until they were in the cells."""
    ratios: list[float] = field(default_factory=list)
    """A copy's time over the whole."""
    first: float = 0.0
    """What the first time took, in memory that was not there yet."""

    def add(self, blocks: float, cells: float, copy: float) -> None:
        """One run; seconds."""
        self.blocks.append(blocks)
        self.cells.append(cells)
        self.ratios.append(copy / (blocks + cells))

    def report(self) -> Report:
        """Medians."""
        ratio = statistics.median(self.ratios)
        return {
            "blocks_ms": rounded(statistics.median(self.blocks) * 1e3),
            "cells_ms": rounded(statistics.median(self.cells) * 1e3),
            "ratio_to_copy": rounded(ratio),
            "share_of_floor": rounded(ratio / _FLOOR),
            "least_and_most": [rounded(min(self.ratios)), rounded(max(self.ratios))],
            "first_time_ms": rounded(self.first * 1e3),
        }


def restore(args: argparse.Namespace) -> Report:
    """From the lease to the cells, out of memory, tmpfs, and files that the page cache has.

    What is read from files is verified, and kept in memory as well, as it is by default; memory is
    emptied before each run.
    """
    with ExitStack() as stack:
        backend = stack.enter_context(opened(args, 2, args.prompt + 64))
        tokens = prompt(args.prompt, 1)
        backend.prefill(tokens)
        stores = _stores(args, backend, stack)
        blocks = _blocks(backend, tokens, next(iter(stores.values())))
        nbytes = sum(block.payload.nbytes for block in blocks)
        for name, store in stores.items():
            taken = [store.offer(block) for block in blocks]
            assert all(taken), name
            assert store.flush(FLUSH_SECONDS)
        times = _restored(args, backend, tokens, stores, _Copy(nbytes))
        return {
            "tokens": len(tokens),
            "megabytes": round(nbytes / 1e6, 1),
            "blocks": len(blocks),
            "next_logits_are_the_same": _next_logits_agree(backend),
            **times,
        }


def _stores(
    args: argparse.Namespace, backend: LlamaBackend, stack: ExitStack
) -> dict[str, BlockStore]:
    disk = stack.enter_context(folder(args))
    shm = stack.enter_context(folder(args, Path("/dev/shm")))
    configs = {
        "memory": CacheConfig(disk, _MEMORY, disk_bytes=0),
        "shm": CacheConfig(disk, _MEMORY, _MEMORY, shm, disk_bytes=0),
        "disk": CacheConfig(disk, _MEMORY, disk_bytes=_MEMORY),
    }
    found = {}
    for name, config in configs.items():
        found[name] = store = open_store(namespace(backend, config), config)
        stack.callback(store.close)
    return found


def _blocks(backend: LlamaBackend, tokens: tuple[int, ...], store: BlockStore) -> list[Block]:
    size, parent, blocks = CacheConfig().block_size, ROOT, list[Block]()
    bounds = list(pairwise([*range(0, len(tokens), size), len(tokens)]))
    for piece in backend.export_ranges(_SOURCE, bounds):
        ids = pack_tokens(tokens[piece.start : piece.end])
        place = Place(store.scope().digest, parent, piece.start, ids)
        blocks.append(make_block(ROWS, place, piece.payload))
        parent = blocks[-1].head.key
    return blocks


class _Copy:
    """One thread's copy between two buffers that are there already."""

    def __init__(self, nbytes: int) -> None:
        self._source, self._target = np.ones(nbytes, np.uint8), np.zeros(nbytes, np.uint8)

    def seconds(self) -> float:
        """Of one more copy."""
        before = time.perf_counter()
        np.copyto(self._target, self._source)
        return time.perf_counter() - before


def _restored(
    args: argparse.Namespace,
    backend: LlamaBackend,
    tokens: tuple[int, ...],
    stores: dict[str, BlockStore],
    copy: _Copy,
) -> Report:
    times, copies = {name: _Times() for name in stores}, list[float]()
    for run in range(args.runs + 1):
        for name, store in stores.items():
            if name != "memory":
                store.shrink_memory(0)
            before = copy.seconds()
            took = _restore(backend, tokens, store)
            copied = (before + copy.seconds()) / 2
            if run:
                times[name].add(*took, copied)
                copies.append(copied)
            else:
                times[name].first = sum(took)
    found: Report = {"copy_ms": rounded(statistics.median(copies) * 1e3)}
    return {**found, **{name: one.report() for name, one in times.items()}}


def _restore(
    backend: LlamaBackend, tokens: tuple[int, ...], store: BlockStore
) -> tuple[float, float]:
    """As the engine does it; seconds until the blocks were there, and until the cells were."""
    scope = store.scope()
    path = store.match(scope, tokens).path
    in_files = not all(node.tiers & Tier.MEMORY.bit for node in path)
    backend.seq_rm(_TARGET)
    began = time.perf_counter()
    piece = backend.new_piece(_TARGET, tokens) if in_files else None
    with store.lease(scope, path, piece) as lease:
        while not lease.is_complete:
            store.wait(_WAIT_SECONDS)
            store.poll()
        read = time.perf_counter()
        if piece is None:
            ranges = [
                Range(one.head.start, one.head.start + one.head.num_tokens, one.payload)
                for one in lease.run()
            ]
            backend.import_ranges(_TARGET, tokens, ranges)
        else:
            assert None not in lease.apart
            backend.import_piece(piece)
        ended = time.perf_counter()
    if not lease.is_whole:
        raise SystemExit("blocks are missing")
    assert store.flush(FLUSH_SECONDS)  # what was read is in memory as well
    return read - began, ended - read


def _next_logits_agree(backend: LlamaBackend) -> bool:
    found = []
    for seq_id in (_SOURCE, _TARGET):
        backend.step([Row(seq_id, [7])])
        found.append(backend.logits(seq_id))
    return bool(np.array_equal(found[0], found[1]))


# ---- time to first token ------------------------------------------------------------------------


def ttft(args: argparse.Namespace) -> Report:
    """A long prompt computed, out of memory, and in other processes out of files.

    Files that the page cache has, and files that it was made to drop. Each process reads the
    weights first.
    """
    with folder(args) as place:
        args.directory = place
        cold = _child(args)
        warm = {
            "memory": cold.pop("again"),
            "disk, page cache": _child(args),
            "disk, dropped pages": _child(args, "--drop"),
        }
    for found in warm.values():
        ratio = cold["first_token_seconds"] / found["first_token_seconds"]
        found["cold_over_this"] = rounded(ratio)
        found["same_token"] = found["tokens"] == cold["tokens"]
    return {"cold": cold, **warm}


def _child(args: argparse.Namespace, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.cache", "first", args.model, *more]
    command += ["--directory", str(args.directory), "--prompt", str(args.prompt)]
    command += ["--threads", str(args.threads), "--layout", args.layout]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    left_out = ("measurement", "model", "threads")
    return {name: one for name, one in found.items() if name not in left_out}


def first(args: argparse.Namespace) -> Report:
    """The first token of a long prompt, with whatever `--directory` has of it.

    And once more, in an engine whose cells are free, out of memory.
    """
    config = CacheConfig(args.directory, _MEMORY, disk_bytes=2**33)
    with opened(args, 1, args.prompt + 64) as backend:
        warm_up(backend)
        if args.drop:
            _drop(args.directory)
        namespace(backend, config)  # reads the weights, if nobody has before
        before = time.perf_counter()
        store = opened_store(backend, config)
        opening = time.perf_counter() - before
        reports = []
        for _ in range(2):
            engine = fresh(backend, Cache(store, config))
            found = answer(engine, prompt(args.prompt, 1))
            engine.close()
            reports.append(
                {
                    "first_token_seconds": rounded(found.first_token_seconds),
                    "restored": cached(found.cached),
                    "tokens": found.tokens,
                }
            )
        if not store.close():
            raise SystemExit("not everything was written")
    report: Report = {**reports[0], "opening_ms": rounded(opening * 1e3), "again": reports[1]}
    if reports[0]["restored"]:
        del report["again"]
    return report


def _drop(directory: Path) -> None:
    """Have the page cache drop the blocks."""
    for path in directory.glob("*/blocks/*"):
        fd = os.open(path, os.O_RDONLY)
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
