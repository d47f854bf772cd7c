"""Text from files and paths, made fit for a one-line message."""

from __future__ import annotations

import os

MAX_SHOWN = 200


def shown(text: str | os.PathLike[str]) -> str:
    """`text` with line breaks and control characters escaped, cut to MAX_SHOWN characters."""
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in os.fspath(text))
    return plain if len(plain) <= MAX_SHOWN else plain[: MAX_SHOWN - 3] + "..."
