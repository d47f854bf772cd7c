"""The bytes of a packed sequence: its tokens and its state, with what proves them.

    offset  size  field (little-endian)
    0       4     magic "SVKV"
    4       2     format, 1
    6       2     state kind: 1 divisible, 2 divisible with a tail, 3 indivisible
    8       32    namespace: SHA-256 of everything else that decides the bytes
    40      4     number of tokens
    44      4     number of logits: the vocabulary's size, or 0
    48      8     length of the tail
    56      8     length of the rows, or of the whole state of an indivisible model
    64      8     XXH3-64 of offsets 0 to 63, followed by everything from offset 72 on
    72      4 n   token ids, u32
    ...           logits of the token that follows, f32; rows; tail

llama.cpp accepts a damaged state without a word, so nothing reaches it that was not verified here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import xxhash

from samovar.errors import StateRejected
from samovar.native.interface import StateKind

_MAGIC, _FORMAT = b"SVKV", 1
_HEAD = struct.Struct("<4sHH32sIIQQ")
_SUM = struct.Struct("<Q")
_KINDS = {
    StateKind.DIVISIBLE: 1,
    StateKind.DIVISIBLE_WITH_TAIL: 2,
    StateKind.INDIVISIBLE: 3,
}
_AGAIN = "it cannot be used here and will have to be computed again"


@dataclass(frozen=True, slots=True)
class Packed:
    """A sequence, taken out of its context."""

    kind: StateKind
    namespace: bytes
    tokens: list[int]
    rows: memoryview
    tail: bytes
    logits: np.ndarray | None = None
    """Of the token after the last. Kept where the last cell cannot be taken away and computed
    again to get them back: sequences of models with a tail, or of an indivisible state."""


def pack(packed: Packed) -> bytes:
    """The bytes, as the module's docstring lays them out."""
    logits = b"" if packed.logits is None else packed.logits.astype("<f4").tobytes()
    head = _HEAD.pack(
        _MAGIC,
        _FORMAT,
        _KINDS[packed.kind],
        packed.namespace,
        len(packed.tokens),
        len(logits) // 4,
        len(packed.tail),
        packed.rows.nbytes,
    )
    ids = np.asarray(packed.tokens, "<u4").tobytes()
    digest = xxhash.xxh3_64(head)
    for part in (ids, logits, packed.rows, packed.tail):
        digest.update(part)
    return b"".join((head, _SUM.pack(digest.intdigest()), ids, logits, packed.rows, packed.tail))


def unpack(data: bytes, kind: StateKind, namespace: bytes) -> Packed:
    """Verify and take apart. Raises StateRejected for damage, and for another namespace."""
    if len(data) < _HEAD.size + _SUM.size:
        raise StateRejected(f"the packed state is cut off; {_AGAIN}")
    head = data[: _HEAD.size]
    magic, form, code, found, count, num_logits, tail_bytes, row_bytes = _HEAD.unpack(head)
    if (magic, form) != (_MAGIC, _FORMAT):
        raise StateRejected(f"this is not a packed state of format {_FORMAT}; {_AGAIN}")
    body = memoryview(data)[_HEAD.size + _SUM.size :]
    start = 4 * (count + num_logits)
    if body.nbytes != start + row_bytes + tail_bytes:
        raise StateRejected(f"the packed state has the wrong length; {_AGAIN}")
    digest = xxhash.xxh3_64(head)
    digest.update(body)
    if _SUM.unpack_from(data, _HEAD.size) != (digest.intdigest(),):
        raise StateRejected(f"the packed state is damaged; {_AGAIN}")
    if found != namespace or code != _KINDS.get(kind):
        raise StateRejected(
            f"the packed state belongs to another model, build, layout or adapter; {_AGAIN}"
        )
    tokens = np.frombuffer(body[: 4 * count], "<u4").tolist()
    logits = np.frombuffer(body[4 * count : start], "<f4") if num_logits else None
    rows, tail = body[start : start + row_bytes], bytes(body[start + row_bytes :])
    return Packed(kind, namespace, tokens, rows, tail, logits)
