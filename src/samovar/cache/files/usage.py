"""How often blocks were used, as one file that is replaced as a whole. Pure.

offset  bytes
     0      8  "SAMOUSE1"
     8      8  number of records, little-endian
    16  48 each: key (32), heat (float64), when (float64)
            8  XXH3-64 of everything before it
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import xxhash

from samovar.cache.keys import Key

_FRONT = struct.Struct("<8sQ")
_MAGIC = b"SAMOUSE1"
_RECORD = np.dtype([("key", "V32"), ("heat", "<f8"), ("when", "<f8")])
_CHECKSUM = 8


def pack_usage(usage: Mapping[Key, tuple[float, float]]) -> bytes:
    """(heat, when) by key, as a file."""
    records = np.zeros(len(usage), _RECORD)
    records["key"] = np.frombuffer(b"".join(usage), "V32")
    pairs = np.array(list(usage.values()), np.float64).reshape(len(usage), 2)
    records["heat"], records["when"] = pairs[:, 0], pairs[:, 1]
    data = _FRONT.pack(_MAGIC, len(usage)) + records.tobytes()
    return data + xxhash.xxh3_64_digest(data)


def unpack_usage(data: bytes) -> dict[Key, tuple[float, float]]:
    """What such a file says; nothing at all if it is damaged, for it is only a help."""
    body = data[:-_CHECKSUM]
    if len(body) < _FRONT.size or data[-_CHECKSUM:] != xxhash.xxh3_64_digest(body):
        return {}
    magic, count = _FRONT.unpack_from(body)
    if magic != _MAGIC or len(body) != _FRONT.size + count * _RECORD.itemsize:
        return {}
    records = np.frombuffer(body, _RECORD, offset=_FRONT.size)
    pairs = zip(records["heat"].tolist(), records["when"].tolist(), strict=True)
    return dict(zip(records["key"].tolist(), pairs, strict=True))
