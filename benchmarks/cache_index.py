"""An index of a million blocks, and a directory of a hundred thousand."""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cached import folder
from benchmarks.measure import Report, rounded
from samovar.cache.block import ROWS, Block, Place, make_block
from samovar.cache.files.tier import FileTier
from samovar.cache.index.index import Index
from samovar.cache.index.node import About, Tier
from samovar.cache.keys import ROOT, Key, Namespace, block_key, pack_tokens
from samovar.cache.store import BlockStore, Budgets

_NAMESPACE = Namespace({"benchmark": True})
_SIZE = 128
_NBYTES = 2**21
_CHAIN = 100  # blocks of one conversation
_TURN = 5  # every so manieth block is shorter: a turn ended there
_GROUP = 1000
_PLENTY = 2**50
_PAYLOAD = bytes(64)


# ---- the index ----------------------------------------------------------------------------------


def index(args: argparse.Namespace) -> Report:
    """Memory per block, by what the process takes from the system, and the time of a match.

    Once of a prompt of full blocks, once of one whose turns ended anywhere, with three other
    blocks beside each of its own.
    """
    found, chance = Index(), random.Random(0)
    gc.collect()
    before, began = _resident(), time.perf_counter()
    for _ in range(args.blocks // _CHAIN):
        _strangers(found, chance)
    took, grown = time.perf_counter() - began, _resident() - before
    count = found.count_of(Tier.DISK)
    full = _path(found, chance, args.prompt, lambda: _SIZE, 0)
    ragged = _path(found, chance, args.prompt, lambda: chance.randint(1, _SIZE), 3)
    return {
        "blocks": count,
        "bytes_per_block": round(grown / count, 1),
        "adding_each_us": round(took / count * 1e6, 2),
        "tokens_of_the_prompt": args.prompt,
        "match_ms": _match_ms(args, found, full),
        "match_ms, ragged": _match_ms(args, found, ragged),
        "blocks_of_the_ragged_path": len(found.match(_NAMESPACE.digest, ragged).path),
    }


def _strangers(found: Index, chance: random.Random) -> None:
    """A conversation that nobody asks for again: its keys are any."""
    parent, start = ROOT, 0
    for number in range(_CHAIN):
        count = _SIZE if number % _TURN else chance.randint(1, _SIZE)
        key = os.urandom(32)
        about = About(key, parent, ROWS, start, count)
        found.add(Tier.DISK, about, _NBYTES, now=float(number))
        parent, start = key, start + count


def _path(
    found: Index, chance: random.Random, length: int, size: Callable[[], int], others: int
) -> list[int]:
    """Add the blocks of a prompt, and `others` beside each; returns its tokens."""
    tokens = [chance.randrange(2**17) for _ in range(length)]
    parent, start = ROOT, 0
    while start < length:
        count = min(size(), length - start)
        key = block_key(_NAMESPACE.digest, parent, pack_tokens(tokens[start : start + count]))
        for other in (key, *(os.urandom(32) for _ in range(others))):
            some = count if other == key else chance.randint(1, _SIZE)
            found.add(Tier.DISK, About(other, parent, ROWS, start, some), _NBYTES, now=0.0)
        parent, start = key, start + count
    return tokens


def _match_ms(args: argparse.Namespace, found: Index, tokens: list[int]) -> Report:
    took = []
    for _ in range(args.runs * 4):
        before = time.perf_counter()
        match = found.match(_NAMESPACE.digest, tokens)
        took.append((time.perf_counter() - before) * 1e3)
        assert match.length == len(tokens)
    return {"median": rounded(statistics.median(took)), "most": rounded(max(took))}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# ---- a directory --------------------------------------------------------------------------------


def opening(args: argparse.Namespace) -> Report:
    """Seconds until a store has the blocks of a directory in its index.

    Their names are in the kernel's caches.
    """
    with folder(args) as directory:
        files = _files(directory)
        files.open()
        began, parent = time.perf_counter(), ROOT
        for first in range(0, args.blocks, _GROUP):
            blocks = _chain(parent, first, min(_GROUP, args.blocks - first))
            assert len(files.publish(blocks).done) == len(blocks)
            parent = ROOT if (first // _GROUP) % 2 else blocks[-1].head.key
        publishing = time.perf_counter() - began
        files.close()
        took = []
        for _ in range(args.runs):
            gc.collect()
            before = time.perf_counter()
            store = BlockStore(_NAMESPACE, {Tier.DISK: _files(directory)}, Budgets(0, 2**20))
            took.append(time.perf_counter() - before)
            assert len(store.index) == args.blocks
            store.close()
    return {
        "blocks": args.blocks,
        "opening_seconds": rounded(statistics.median(took)),
        "runs": [rounded(one) for one in took],
        "publishing_each_us": round(publishing / args.blocks * 1e6, 1),
    }


def _files(directory: Path) -> FileTier:
    return FileTier(directory, _NAMESPACE, _PLENTY, is_durable=False)


def _chain(parent: Key, first: int, count: int) -> list[Block]:
    blocks = []
    start = 0 if parent == ROOT else _GROUP * _SIZE
    for number in range(first, first + count):
        tokens = pack_tokens([number] * _SIZE)
        place = Place(_NAMESPACE.digest, parent, start, tokens)
        blocks.append(make_block(ROWS, place, memoryview(_PAYLOAD)))
        parent, start = blocks[-1].head.key, start + _SIZE
    return blocks
