"""`samovar embed`: texts to vectors."""

from __future__ import annotations

import argparse
import sys

from samovar.cli import inprocess
from samovar.cli.output import print_json


def add_parser(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    """Declare the command."""
    parser = commands.add_parser("embed", help="texts to vectors, one line each")
    parser.add_argument("model", metavar="MODEL", help="a GGUF file")
    parser.add_argument("texts", metavar="TEXT", nargs="+")
    parser.add_argument(
        "--pooling", choices=("mean", "cls", "last"), help="default: what the file says, else last"
    )
    parser.add_argument("--raw", action="store_true", help="do not scale vectors to length 1")
    parser.add_argument("--ctx-size", type=int, default=0, metavar="N", help="longest text")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="default: every core")
    parser.add_argument("--gpu-layers", type=int, default=-1, metavar="N", help="default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=embed)


def embed(args: argparse.Namespace) -> int:
    """Print one vector per text."""
    vectors, count = [], 0
    with inprocess.open_model(
        args.model,
        context_length=args.ctx_size,
        threads=args.threads,
        gpu_layers=args.gpu_layers,
    ) as backend:
        for text in args.texts:
            tokens = backend.tokenize(text)
            count += len(tokens)
            vectors.append(inprocess.embed(backend, tokens, args.pooling, is_raw=args.raw))
    if args.json:
        usage = {"prompt_tokens": count, "total_tokens": count}
        print_json({"embeddings": vectors, "usage": usage})
    else:
        for vector in vectors:
            sys.stdout.write(" ".join(f"{value:.6g}" for value in vector) + "\n")
    return 0
