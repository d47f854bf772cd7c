"""Text from files and paths, made fit for a one-line message."""

from __future__ import annotations

import os

MAX_SHOWN = 200


def shown(text: str | os.PathLike[str]) -> str:
    """`text` with control characters escaped; of a long one its beginning and its end."""
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in os.fspath(text))
    half = MAX_SHOWN // 2
    return plain if len(plain) <= MAX_SHOWN else f"{plain[:half]}...{plain[-half:]}"
