"""What commands read: texts, and the models they are about."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from samovar import models
from samovar.errors import InvalidRequest, ModelNotFound
from samovar.gguf.show import shown


def read_text(argument: str | None, what: str) -> bytes:
    """The argument's bytes, or all of standard input when it is absent or `-`.

    Raises InvalidRequest when there is neither.
    """
    if argument is not None and argument != "-":
        return os.fsencode(argument)
    if sys.stdin is None or (argument is None and sys.stdin.isatty()):
        raise InvalidRequest(f"no {what}: give it as an argument or on standard input")
    return sys.stdin.buffer.read()


def model_path(text: str) -> str:
    """The path that a text stands for: a built-in name for its file, anything else for itself.

    A built-in name comes first, so that a command means the same in every folder; a file of that
    name is reached as `./NAME`. Raises ModelNotFound for a mere name that is neither.
    """
    built_in = models.path_of(text)
    if built_in is not None:
        return str(built_in)
    if os.sep in text or _exists(text):
        return text
    raise ModelNotFound(
        f"{shown(text)} is neither a file nor a built-in name: give a path, or one of"
        f" {', '.join(models.names())}"
    )


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # too long, or in a folder that may not be searched
        return False
