"""One block as bytes that prove themselves. Pure.

A block is the KV rows of some neighbouring positions (kind `r`; no bytes at all where a model's
state has no rows), or what else there is to the state at the position where such rows end (kind
`s`: the recurrent part, the window, or the whole of it). It may carry the logits of the token that
follows it. All integers are little-endian:

    offset  bytes
         0      8  "SAMOKV01"
         8      1  kind, "r" or "s"
         9      3  zeros
        12      4  number of tokens, n
        16     32  namespace digest
        48     32  key of the block before it
        80     32  key
       112      4  position of its first token
       116      4  bytes of the logits, a multiple of 4 (float32 each)
       120      8  bytes of the payload
       128      8  XXH3-64 of the payload
       136      8  XXH3-64 of the logits
       144     4n  tokens, u32 each
                8  XXH3-64 of everything before it
                   zeros up to a multiple of 64
                   payload
                   zeros up to a multiple of 64, if there are logits
                   logits

The key proves namespace, parent and tokens, the first checksum the rest of the head, the others
the contents. A state block (`s`) has the tokens, parent and key of the rows that end where it was
taken, so that one name leads to both.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from samovar.cache.keys import TOKEN_BYTES, Key, block_key

ROWS, STATE = "r", "s"
KINDS = (ROWS, STATE)

_MAGIC = b"SAMOKV01"
_FIXED = struct.Struct("<8sc3xI32s32s32sIIQ8s8s")
_CHECKSUM = 8
_ALIGNMENT = 64
MAX_TOKENS = 2**20  # of one block: a head that claims more is damaged

assert _FIXED.size == 144


class BadBlock(Exception):
    """Bytes that are not the block that was asked for. `cause` is one word for the counters."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Head:
    """What a block says of itself before its contents."""

    kind: str
    namespace: bytes
    parent: Key
    key: Key
    start: int
    """The position of its first token."""
    tokens: bytes
    """Packed, four bytes each."""
    payload_bytes: int
    logits_bytes: int
    payload_checksum: bytes
    logits_checksum: bytes

    @property
    def num_tokens(self) -> int:
        """How many tokens it has."""
        return len(self.tokens) // TOKEN_BYTES

    @property
    def payload_offset(self) -> int:
        """Where the payload begins."""
        return _padded(_FIXED.size + len(self.tokens) + _CHECKSUM)

    @property
    def logits_offset(self) -> int:
        """Where the logits begin, if there are any."""
        return _padded(self.payload_offset + self.payload_bytes)

    @property
    def size(self) -> int:
        """Bytes of the whole block."""
        if not self.logits_bytes:
            return self.payload_offset + self.payload_bytes
        return self.logits_offset + self.logits_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the block takes, as far as they count."""
        return self.payload_bytes + self.logits_bytes + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Block:
    """A block in memory. Nothing of it ever changes."""

    head: Head
    payload: memoryview
    logits: memoryview
    """float32 of the whole vocabulary, or empty."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes, as far as they count."""
        return self.head.nbytes

    @property
    def above(self) -> Key:
        """The rows on which it hangs, or ROOT."""
        return self.head.key if self.head.kind == STATE else self.head.parent


@dataclass(frozen=True, slots=True)
class Place:
    """Which tokens a block stands for, and behind which."""

    namespace: bytes
    parent: Key
    start: int
    tokens: bytes


def make_block(
    kind: str, place: Place, payload: memoryview, logits: memoryview | None = None
) -> Block:
    """A new block; its key is computed. The contents are not copied: leave them as they are."""
    payload = payload.cast("B") if payload.nbytes else memoryview(b"")
    logits = logits.cast("B") if logits is not None and logits.nbytes else memoryview(b"")
    key = block_key(place.namespace, place.parent, place.tokens)
    head = Head(
        kind,
        place.namespace,
        place.parent,
        key,
        place.start,
        place.tokens,
        payload.nbytes,
        logits.nbytes,
        b"",
        b"",
    )
    return Block(head, payload, logits)


def pieces(block: Block) -> list[bytes | memoryview]:
    """The block as it is written, in pieces that follow each other. Computes the checksums."""
    head = block.head
    fixed = _FIXED.pack(
        _MAGIC,
        head.kind.encode(),
        head.num_tokens,
        head.namespace,
        head.parent,
        head.key,
        head.start,
        head.logits_bytes,
        head.payload_bytes,
        _checksum(block.payload),
        _checksum(block.logits),
    )
    front = fixed + head.tokens
    front += _checksum(front)
    found: list[bytes | memoryview] = [front.ljust(head.payload_offset, b"\0"), block.payload]
    if head.logits_bytes:
        end = head.payload_offset + head.payload_bytes
        found += [bytes(head.logits_offset - end), block.logits]
    return found


def parse_head(data: memoryview) -> Head:
    """The head of a written block. Raises BadBlock unless it is whole and says what can be."""
    if len(data) < _FIXED.size:
        raise BadBlock("short")
    magic, kind, count, namespace, parent, key, start, logits, payload, of_payload, of_logits = (
        _FIXED.unpack_from(data)
    )
    if magic != _MAGIC:
        raise BadBlock("foreign")
    end = _FIXED.size + count * TOKEN_BYTES
    if count > MAX_TOKENS:
        raise BadBlock("head")
    if len(data) < end + _CHECKSUM:
        raise BadBlock("short")
    if bytes(data[end : end + _CHECKSUM]) != _checksum(data[:end]):
        raise BadBlock("head")
    tokens = bytes(data[_FIXED.size : end])
    if kind.decode("latin-1") not in KINDS or key != block_key(namespace, parent, tokens):
        raise BadBlock("head")
    return Head(
        kind.decode(),
        namespace,
        parent,
        key,
        start,
        tokens,
        payload,
        logits,
        of_payload,
        of_logits,
    )


def head_bytes(num_tokens: int) -> int:
    """Where the payload of a block of so many tokens begins."""
    return _padded(_FIXED.size + num_tokens * TOKEN_BYTES + _CHECKSUM)


def parse_block(data: memoryview, kind: str, key: Key, namespace: bytes | None = None) -> Block:
    """The block that `data` is, if it is the one that was asked for; contents are views of it.

    `namespace` None takes the word of the block for it, which the key proves as well. Raises
    BadBlock for everything else, whatever the bytes are.
    """
    head = parse_head(data)
    _require_asked(head, kind, key, namespace)
    if len(data) != head.size:
        raise BadBlock("short" if len(data) < head.size else "long")
    payload = data[head.payload_offset : head.payload_offset + head.payload_bytes]
    logits = data[head.logits_offset : head.size] if head.logits_bytes else memoryview(b"")
    if _checksum(payload) != head.payload_checksum or _checksum(logits) != head.logits_checksum:
        raise BadBlock("contents")
    if _gaps(data, head):
        raise BadBlock("head")
    return Block(head, payload, logits)


def check_apart(
    front: memoryview,
    payload: Sequence[memoryview],
    kind: str,
    key: Key,
    namespace: bytes | None = None,
) -> Head:
    """The same for a block without logits whose payload lies in pieces, in this order.

    `front` is what stands before the payload. Raises BadBlock.
    """
    head = parse_head(front)
    _require_asked(head, kind, key, namespace)
    if len(front) != head.payload_offset or head.logits_bytes:
        raise BadBlock("head")
    if sum(piece.nbytes for piece in payload) != head.payload_bytes:
        raise BadBlock("short")
    if _checksum(*payload) != head.payload_checksum or _checksum(b"") != head.logits_checksum:
        raise BadBlock("contents")
    if _gaps(front, head):
        raise BadBlock("head")
    return head


def _require_asked(head: Head, kind: str, key: Key, namespace: bytes | None) -> None:
    if (head.kind, head.key) != (kind, key) or namespace not in (None, head.namespace):
        raise BadBlock("misplaced")


def _gaps(data: memoryview, head: Head) -> bool:
    """Whether there is anything but zeros between the parts: damage that nothing else shows."""
    between = bytes(data[_FIXED.size + len(head.tokens) + _CHECKSUM : head.payload_offset])
    if head.logits_bytes:
        between += bytes(data[head.payload_offset + head.payload_bytes : head.logits_offset])
    return any(between) or any(data[9:12])


def _checksum(*pieces: bytes | memoryview) -> bytes:
    """Of what the pieces are one after the other."""
    if len(pieces) == 1:
        return xxhash.xxh3_64_digest(pieces[0])
    digest = xxhash.xxh3_64()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
