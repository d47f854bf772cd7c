"""The cache beside a copy of its bytes, beside computing, and beside llama-server's.

    python -m benchmarks.cache restore MODEL
    python -m benchmarks.cache ttft MODEL
    python -m benchmarks.cache trace [MODEL] [--warm]
    python -m benchmarks.cache saving MODEL [--continued 128]
    python -m benchmarks.cache index [--blocks 1000000]
    python -m benchmarks.cache opening [--blocks 100000]
    python -m benchmarks.cache server MODEL --peers FOLDER [--budgets 512 128]

`restore`: cells of 4,096 tokens out of memory, tmpfs and disk, beside one thread's copy of as many
bytes. `ttft`: the first token of a prompt of 4,096 tokens, computed, and restored: in the process
that computed it, and in others. `trace`: what 50 conversations behind one system prompt leave on
disk and write there. `saving`: decode with saving and without. `index`: a million blocks in memory.
`opening`: a hundred thousand in a directory. `server`: the trace of a few conversations, beside
llama-server with `--cache-ram`.

Files go to --folder, which should lie on the disk that is meant. Models: see docs/benchmarks.md.
FOLDER holds the binaries of llama.cpp, built from the source that llama-cpp-python carries.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.cache_index import index, opening
from benchmarks.cache_restore import first, restore, ttft
from benchmarks.cache_server import server
from benchmarks.cache_trace import saving, trace
from benchmarks.measure import Report
from samovar.native.context import default_threads

COMMANDS: dict[str, Callable[[argparse.Namespace], Report]] = {
    "restore": restore,
    "ttft": ttft,
    "first": first,
    "trace": trace,
    "saving": saving,
    "index": index,
    "opening": opening,
    "server": server,
}
_WITHOUT_MODEL = ("index", "opening", "trace")
_PROMPTS = {"index": 100_000}
_BLOCKS = {"index": 1_000_000, "opening": 100_000}
_CONVERSATIONS = {"server": 6}


def _parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    found.add_argument("measurement", choices=COMMANDS)
    found.add_argument("model", nargs="?")
    found.add_argument("--folder", type=Path, default=Path(".build/bench"))
    found.add_argument("--runs", type=int, default=5)
    found.add_argument("--threads", type=int, default=default_threads())
    found.add_argument("--layout", choices=("lanes", "pool"), default="lanes")
    found.add_argument("--prompt", type=int, help="tokens")
    found.add_argument("--blocks", type=int)
    found.add_argument("--sequences", type=int, default=4, help="of `saving`")
    found.add_argument("--tokens", type=int, default=256, help="each of them decodes")
    found.add_argument("--continued", type=int, default=128, help="tokens between two saves")
    found.add_argument("--conversations", type=int)
    found.add_argument("--system", type=int, default=2000, help="tokens of the system prompt")
    found.add_argument("--turns", type=int, default=4)
    found.add_argument("--answer", type=int, default=40, help="tokens")
    found.add_argument("--warm", action="store_true", help="compute the system prompt first")
    found.add_argument(
        "--budgets", type=int, nargs="+", default=[512, 128], help="MiB, of `server`"
    )
    found.add_argument("--peers", help="folder of llama.cpp's binaries")
    found.add_argument("--server-options", nargs="+", default=[], help="more for llama-server")
    found.add_argument("--directory", type=Path, help="of `first`: where the cache is")
    found.add_argument("--drop", action="store_true", help="of `first`: out of the page cache")
    return found


def _measured(args: argparse.Namespace) -> Report:
    """With what one must know of the circumstances."""
    before = os.getloadavg()[0]
    report = COMMANDS[args.measurement](args)
    report["measurement"] = args.measurement
    report["model"] = args.model and Path(args.model).name
    report["threads"] = args.threads
    report["load_average"] = [round(before, 2), round(os.getloadavg()[0], 2)]
    return report


def main() -> None:
    """Parse the command line, measure, print one JSON object."""
    parser = _parser()
    args = parser.parse_args()
    if args.model is None and args.measurement not in _WITHOUT_MODEL:
        parser.error(f"{args.measurement} needs a model")
    if args.measurement == "server" and not args.peers:
        parser.error("server needs --peers")
    if args.measurement == "first" and args.directory is None:
        parser.error("first needs --directory")
    args.prompt = args.prompt or _PROMPTS.get(args.measurement, 4096)
    args.blocks = args.blocks or _BLOCKS.get(args.measurement)
    args.conversations = args.conversations or _CONVERSATIONS.get(args.measurement, 50)
    json.dump(_measured(args), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
