"""A directory of blocks: opening it, publishing into it, reading from it.

    python -m benchmarks.files open FOLDER [--blocks 100000] [--cold]
    python -m benchmarks.files publish FOLDER [--blocks 32] [--mebibytes 1]
    python -m benchmarks.files read FOLDER [--blocks 32] [--mebibytes 1]

`open`: seconds to open a directory of so many blocks, and to look again. `--cold` drops the
system's cache of names first, which needs root and slows everybody down.
`publish`: milliseconds of a group, durable and not, beside those of writing the same bytes into one
new file (and syncing it), in turn; medians, and the medians of the pairs' ratios.
`read`: bytes per second of reading verified blocks from the page cache, beside one thread's copy of
the same bytes between two buffers; medians of the pairs' ratios.
All make a folder of their own in FOLDER and remove it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from samovar.cache.block import ROWS, Block, Place, make_block
from samovar.cache.files.names import name_of
from samovar.cache.files.tier import FileTier
from samovar.cache.keys import ROOT, Namespace, pack_tokens

MODEL = Namespace({"benchmark": True})
PLENTY = 2**50
TOKENS = 128


def chain(count: int, nbytes: int, seed: int) -> list[Block]:
    """Blocks that follow each other, of random contents."""
    chance = np.random.default_rng(seed)
    parent, blocks = ROOT, []
    for number in range(count):
        tokens = chance.integers(0, 2**17, TOKENS)
        place = Place(MODEL.digest, parent, number * TOKENS, pack_tokens(tokens.tolist()))
        blocks.append(make_block(ROWS, place, memoryview(chance.bytes(nbytes))))
        parent = blocks[-1].head.key
    return blocks


def opened(folder: str, *, is_durable: bool) -> FileTier:
    """An open tier."""
    files = FileTier(Path(folder), MODEL, PLENTY, is_durable=is_durable)
    files.open()
    return files


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def opening(args: argparse.Namespace, folder: str) -> dict[str, object]:
    """Seconds; the directory is filled first."""
    files = opened(folder, is_durable=False)
    filled = time.perf_counter()
    for first in range(0, args.blocks, 1000):
        files.publish(chain(min(1000, args.blocks - first), 64, first))
    filling = time.perf_counter() - filled
    runs, busy = [], []
    for _ in range(args.runs):
        if args.cold:
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
        before = time.process_time()
        runs.append(seconds_of(files.open))
        busy.append(time.process_time() - before)
    assert len(files.open().entries) == args.blocks
    opened(folder, is_durable=False).delete([name_of(chain(1, 64, 0)[0].head)])
    return {
        "blocks": args.blocks,
        "publishing_each_us": round(filling / args.blocks * 1e6, 1),
        "opening_s": round(statistics.median(runs), 3),
        "opening_cpu_s": round(statistics.median(busy), 3),
        "looking_again_s": round(seconds_of(files.rescan), 3),
        "looking_for_nothing_new_us": round(seconds_of(files.rescan) * 1e6, 1),
    }


def written(path: Path, blocks: list[Block], *, is_durable: bool) -> None:
    """The same bytes in one file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    for block in blocks:
        os.write(fd, block.payload)
    if is_durable:
        os.fdatasync(fd)
    os.close(fd)


def publishing(args: argparse.Namespace, folder: str) -> dict[str, object]:
    """Milliseconds."""
    report: dict[str, object] = {"blocks": args.blocks, "mebibytes": args.mebibytes}
    for kind, is_durable in (("durable", True), ("not_durable", False)):
        files = opened(f"{folder}/{kind}", is_durable=is_durable)
        group, plain = [], []
        for run in range(args.runs):
            blocks = chain(args.blocks, int(args.mebibytes * 2**20), run)
            path = Path(folder) / "plain"
            for measured, work in (
                (plain, lambda: written(path, blocks, is_durable=is_durable)),  # noqa: B023
                (group, lambda: files.publish(blocks)),  # noqa: B023
            ):
                measured.append(seconds_of(work) * 1e3)
            path.unlink()
            files.delete([name_of(block.head) for block in blocks])
        ratios = [ours / theirs for ours, theirs in zip(group, plain, strict=True)]
        report[kind] = {
            "group_ms": round(statistics.median(group), 1),
            "one_file_ms": round(statistics.median(plain), 1),
            "ratio": round(statistics.median(ratios), 2),
        }
    return report


def reading(args: argparse.Namespace, folder: str) -> dict[str, object]:
    """Bytes per second, and their share of a copy's."""
    files = opened(folder, is_durable=False)
    blocks = chain(args.blocks, int(args.mebibytes * 2**20), 0)
    files.publish(blocks)
    names = [name_of(block.head) for block in blocks]
    total = sum(block.nbytes for block in blocks)
    source, target = np.ones(total, np.uint8), np.zeros(total, np.uint8)
    buffer = memoryview(bytearray(max(block.head.size for block in blocks)))

    def fresh() -> None:
        for name in names:
            files.read(name, MODEL.digest)

    def reused() -> None:
        for name in names:
            files.read(name, MODEL.digest, buffer)

    copies, runs = [], {"fresh": [], "reused": []}
    for _ in range(args.runs):
        copies.append(seconds_of(lambda: np.copyto(target, source)))
        runs["fresh"].append(seconds_of(fresh))
        runs["reused"].append(seconds_of(reused))
    report: dict[str, object] = {"copy_gb_s": round(total / statistics.median(copies) / 1e9, 2)}
    for kind, seconds in runs.items():
        ratios = [theirs / ours for ours, theirs in zip(seconds, copies, strict=True)]
        report[f"{kind}_gb_s"] = round(total / statistics.median(seconds) / 1e9, 2)
        report[f"{kind}_share"] = round(statistics.median(ratios), 3)
    return report


COMMANDS = {"open": opening, "publish": publishing, "read": reading}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("folder")
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--mebibytes", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    args.blocks = args.blocks or {"open": 100_000}.get(args.command, 32)
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="samovar-benchmark-") as folder:
        json.dump(COMMANDS[args.command](args, folder), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
