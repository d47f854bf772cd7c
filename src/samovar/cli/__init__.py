"""The `samovar` command: one door, and one place where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys

from samovar.cli.interrupt import INTERRUPTED, act_on_interrupt, leave
from samovar.errors import SamovarError

FAILED = 1


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0: done. 1: an error, said in one line on standard error. 2: wrong usage. 130: interrupted.
    For the whole of a process: what Ctrl-C does is not put back.
    """
    # First, because loading the modules takes most of a second.
    act_on_interrupt(leave)
    import click

    try:
        # Here and not above: a native library that does not load is an answer too.
        from samovar.cli.commands import samovar
    except (ImportError, OSError, RuntimeError) as error:
        sys.stderr.write(f"samovar: llama.cpp cannot be loaded ({error}); run `make setup`\n")
        return FAILED
    try:
        code = samovar.main(argv, prog_name="samovar", standalone_mode=False)
        sys.stdout.flush()
    except SamovarError as error:
        sys.stderr.write(f"samovar: {error}\n")
        return FAILED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone; nobody is left to tell, and the flush at exit must not try.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code if isinstance(code, int) else 0
