"""Every command behind one group."""

from __future__ import annotations

import logging
import sys

import click

from samovar.cli.cache import cache
from samovar.cli.doctor import doctor
from samovar.cli.embed import embed
from samovar.cli.info import info
from samovar.cli.run import run
from samovar.cli.text import detokenize, tokenize
from samovar.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="samovar")
@click.option("-v", "--verbose", is_flag=True, help="Show llama.cpp's own log.")
def samovar(*, verbose: bool) -> None:
    """Run GGUF models with llama.cpp and keep prompts hot."""
    _configure_logging(verbose=verbose)


for _command in (run, tokenize, detokenize, embed, info, cache, doctor):
    samovar.add_command(_command)


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
