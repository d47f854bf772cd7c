"""The standard streams, whatever the caller made of them: closed, full, of a narrow encoding."""

from __future__ import annotations

import os
import sys
from typing import TextIO

_OUTPUT, _ERRORS = 1, 2


def prepare() -> None:
    """Make the standard streams such that using one fails at worst with an OSError.

    A closed descriptor is taken first of all, or the next file opened would get its number.
    """
    for descriptor, flags in ((0, os.O_RDONLY), (_OUTPUT, os.O_RDONLY), (_ERRORS, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = _writer(_OUTPUT)  # read-only below: who closed it gets an error, not silence
    if sys.stderr is None:
        sys.stderr = _writer(_ERRORS)
    if sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]


def complain(message: str) -> None:
    """Say on standard error what is wrong, in one line, whatever a file's texts may hold."""
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in message)
    sys.stderr.write(f"samovar: {line}\n")


def abandon_output() -> None:
    """Let what is still buffered go nowhere: the flush at exit must not fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _OUTPUT)


def _writer(descriptor: int) -> TextIO:
    return open(descriptor, "w", encoding="utf-8", errors="replace", closefd=False)
