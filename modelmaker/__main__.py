"""Command line: python -m modelmaker KIND OUT, adapter BASE OUT, or vocabulary OUT."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modelmaker.adapter import build_adapter
from modelmaker.model import KINDS, NEVER, POOLINGS, build_model
from modelmaker.quantization import QUANTIZATIONS
from modelmaker.shape import SHAPES, TINY
from modelmaker.vocabulary_file import build_vocab_only


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelmaker", description=build_model.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    for kind in KINDS:
        _add_model(commands.add_parser(kind, help=f"a {kind} model"))
    _add_adapter(commands.add_parser("adapter", help="a LoRA adapter for a model"))
    _add_vocabulary(commands.add_parser("vocabulary", help="a file with a vocabulary only"))
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path)
    parser.add_argument("--quant", choices=QUANTIZATIONS)
    parser.add_argument("--vocab", help="bpe, spm, wpm or the path of a GGUF file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", choices=SHAPES, default=TINY)
    parser.add_argument("--context-length", type=int)
    parser.add_argument("--chat-template", help="chatml or the text of a template")
    parser.add_argument("--name")
    parser.add_argument("--pooling", choices=POOLINGS)
    parser.add_argument("--special-gain", type=float, default=NEVER)
    parser.add_argument("--raw-bytes", action="store_true")


def _add_adapter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--alpha", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strength", type=float, default=1.0)


def _add_vocabulary(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocab", help="bpe, spm, wpm or the path of a GGUF file")


def _build(options: dict[str, object]) -> Path:
    command, out = options.pop("command"), options.pop("out")
    if command == "adapter":
        return build_adapter(out, options.pop("base"), **options)  # type: ignore[arg-type]
    if command == "vocabulary":
        return build_vocab_only(out, **options)  # type: ignore[arg-type]
    return build_model(out, command, **options)  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file and print its path and size; 1 with a message for a wrong argument."""
    try:
        path = _build(vars(_parser().parse_args(arguments)))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"modelmaker: {error}\n")
        return 1
    sys.stdout.write(f"{path} {path.stat().st_size:,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
