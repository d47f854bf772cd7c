"""Every command behind one group."""

from __future__ import annotations

import logging
import sys
from importlib import import_module

import click

from samovar.ipc.logs import LLAMA
from samovar.version import __version__

_MODULES = {
    "run": "run",
    "serve": "serve",
    "tokenize": "text",
    "detokenize": "text",
    "embed": "embed",
    "info": "info",
    "cache": "cache",
    "doctor": "doctor",
}
"""By command: the module of this package that has it."""


class _Commands(click.Group):
    """Loads a command when it is called: most of what the others import takes longer than it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See click.Group."""
        return [*_MODULES, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click.Group."""
        module = _MODULES.get(cmd_name)
        if module is None:
            return super().get_command(ctx, cmd_name)
        found: click.Command = getattr(import_module(f"samovar.cli.{module}"), cmd_name)
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="samovar")
@click.option("-v", "--verbose", is_flag=True, help="Show llama.cpp's own log.")
def samovar(*, verbose: bool) -> None:
    """Run GGUF models with llama.cpp and keep prompts hot."""
    _configure_logging(verbose=verbose)


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
        logging.getLogger(LLAMA).setLevel(logging.CRITICAL + 1)
