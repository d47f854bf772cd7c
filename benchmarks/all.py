"""Every measurement of the engine and of the server in turn, on models made for it; `make bench`.

    python -m benchmarks.all [--peers FOLDER] [--folder .build/bench] [--shape small]

Prints one JSON object a line. Without peers those that compare with them are left out. Sizes are
chosen for minutes; for figures worth quoting run `benchmarks.engine` and `benchmarks.serving` on a
quiet machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import serving
from benchmarks.engine import COMMANDS, NEED_PEERS, measured, parser
from benchmarks.measure import Report
from modelmaker import SHAPES, build_model


def main() -> None:
    """Make the model where it is not there, measure, print."""
    description = (__doc__ or "").splitlines()[0]
    command_line = argparse.ArgumentParser(description=description, parents=[parser()])
    command_line.add_argument("--folder", type=Path, default=Path(".build/bench"))
    command_line.add_argument("--shape", choices=SHAPES, default="small")
    args = command_line.parse_args()
    args.model = str(_made(args.folder, args.shape))
    for name in COMMANDS:
        if args.peers or name not in NEED_PEERS:
            _say(name, lambda name=name: measured(name, args))  # type: ignore[misc]
    served = serving.parser().parse_args(["--peers", args.peers] if args.peers else [])
    served.model = str(_made(args.folder, "tiny", chat_template="chatml"))
    for name in serving.COMMANDS:
        _say(f"serving {name}", lambda name=name: serving.measured(name, served))  # type: ignore[misc]


def _say(name: str, measure: Callable[[], Report]) -> None:
    sys.stderr.write(f"{name} ...\n")
    sys.stdout.write(json.dumps(measure()) + "\n")
    sys.stdout.flush()


def _made(folder: Path, shape: str, **more: str) -> Path:
    """The model's file; one that an interrupted run left half written has another name."""
    path = folder / f"{'-'.join([shape, *more.values()])}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        build_model(partial, "llama", shape=shape, **more)  # type: ignore[arg-type]
        partial.rename(path)
    return path


if __name__ == "__main__":
    main()
