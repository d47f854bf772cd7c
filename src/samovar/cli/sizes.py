"""Numbers of bytes, as people write them."""

from __future__ import annotations

import re

from samovar.errors import InvalidRequest
from samovar.gguf.show import shown

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def read_size(text: str) -> int:
    """Bytes: `1000`, `500M`, `2GiB`. Raises InvalidRequest."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidRequest(f"{shown(text)} is no size: give bytes, or 500M, 2G and the like")
    return int(float(found[1]) * _UNITS[found[2].lower()])
