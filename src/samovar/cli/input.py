"""What commands read: text from an argument or byte for byte from standard input."""

from __future__ import annotations

import os
import sys

from samovar.errors import InvalidRequest


def read_text(argument: str | None, what: str) -> bytes:
    """The argument's bytes, or all of standard input when it is absent or `-`.

    Raises InvalidRequest when there is neither.
    """
    if argument is not None and argument != "-":
        return os.fsencode(argument)
    if sys.stdin is None or (argument is None and sys.stdin.isatty()):
        raise InvalidRequest(f"no {what}: give it as an argument or on standard input")
    return sys.stdin.buffer.read()
