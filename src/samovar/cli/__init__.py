"""The `samovar` command: one door, and one place where errors become a line and an exit code."""

from __future__ import annotations

import sys

from samovar.cli.interrupt import INTERRUPTED, act_on_interrupt, leave
from samovar.cli.streams import abandon_output, complain, prepare
from samovar.errors import SamovarError

FAILED = 1


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0: done. 1: an error, said in one line on standard error. 2: wrong usage. 130: interrupted.
    For the whole of a process: what Ctrl-C does is not put back.
    """
    prepare()
    # Before the modules are loaded, which takes most of a second.
    act_on_interrupt(leave)
    import click

    try:
        # Here and not above: a native library that does not load is an answer too.
        from samovar.cli.commands import samovar
    except (ImportError, OSError, RuntimeError) as error:
        complain(f"a library cannot be loaded ({error}); run `make setup`")
        return FAILED
    try:
        code = samovar.main(argv, prog_name="samovar", standalone_mode=False)
        sys.stdout.flush()
    except SamovarError as error:
        complain(str(error))
        return FAILED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("\n")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read us has gone; nobody is left to tell
        abandon_output()
        return FAILED
    except OSError as error:
        abandon_output()
        complain(_explain(error))
        return FAILED
    return code if isinstance(code, int) else 0


def _explain(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    if error.filename is not None:
        return f"{error.filename}: {reason}"
    return f"cannot write to standard output ({reason}): send it elsewhere, or make room"
