"""The `samovar` command: one parser, one place where errors become a line and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from samovar import __version__
from samovar.cli import doctor, embed, info, run, text
from samovar.errors import SamovarError

FAILED, INTERRUPTED = 1, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0: done. 1: an error, said in one line on standard error. 2: wrong usage. 130: interrupted.
    """
    args = _parser().parse_args(argv)
    _configure_logging(verbose=args.verbose)
    try:
        code: int = args.command(args)
    except SamovarError as error:
        sys.stderr.write(f"samovar: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone; nobody is left to tell, and the flush at exit must not try.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="samovar", description="Run GGUF models with llama.cpp and keep prompts hot."
    )
    parser.add_argument("--version", action="version", version=f"samovar {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="show llama.cpp's own log")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run.add_parser(commands)
    text.add_parsers(commands)
    embed.add_parser(commands)
    info.add_parser(commands)
    doctor.add_parser(commands)
    return parser


def _configure_logging(*, verbose: bool) -> None:
    """Warnings of our own reach the terminal; llama.cpp's lines only when asked for.

    A failing call quotes the line that explains it, so its log adds nothing at the usual level.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.WARNING,
        format="samovar: %(levelname)s: %(message)s",
    )
    if not verbose:
        logging.getLogger("samovar.llama").setLevel(logging.CRITICAL + 1)
