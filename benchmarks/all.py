"""Every measurement of the engine in turn, on a model that is made for it; `make bench`.

    python -m benchmarks.all [--peers FOLDER] [--folder .build/bench] [--shape small]

Prints one JSON object a line. Without peers those that compare with them are left out. Sizes are
chosen for minutes; for figures worth quoting run `benchmarks.engine` on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.engine import COMMANDS, NEED_PEERS, measured, parser
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
            sys.stderr.write(f"{name} ...\n")
            sys.stdout.write(json.dumps(measured(name, args)) + "\n")
            sys.stdout.flush()


def _made(folder: Path, shape: str) -> Path:
    """The model's file; one that an interrupted run left half written has another name."""
    path = folder / f"{shape}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        build_model(partial, "llama", shape=shape)
        partial.rename(path)
    return path


if __name__ == "__main__":
    main()
