"""Reading forward through a file, bounded by its size at every step.

Nothing is allocated for a number that the file states until the file has been found long enough
to back it. The file is read in windows, not mapped: a mapped file that another process cuts
short kills the reader with SIGBUS.
"""

from __future__ import annotations

import os
import struct

import numpy as np
from numpy.typing import NDArray

from samovar.errors import MalformedGGUF

WINDOW_BYTES = 1 << 20
# Template and tokenizer strings stay far below this; a longer one is a damaged length.
MAX_STRING_BYTES = 16 << 20
# 128,000 tokens with their merges take 8 MB. llama.cpp keeps the whole header in memory.
MAX_HEADER_BYTES = 128 << 20
# Merges are the longest arrays of strings, and the largest tokenizers have half a million.
MAX_STRINGS = 1 << 21
# The fast walk over strings goes in blocks that grow while it succeeds, so that what a long
# string makes it waste stays in proportion; SLOW_RUN strings are then walked one by one.
FIRST_BLOCK = 256
LAST_BLOCK = 1 << 16
SLOW_RUN = 64

U64 = struct.Struct("<Q")


class Cursor:
    """A position in a file of `size` bytes that only moves forward.

    Every method raises MalformedGGUF where the file ends too soon; `what` names the thing being
    read, `label` the file.
    """

    def __init__(self, descriptor: int, size: int, label: str) -> None:
        self._descriptor = descriptor
        self._size = size
        self._label = label
        self._start = 0
        self._index = 0
        self._window = b""

    @property
    def position(self) -> int:
        """Bytes from the start of the file."""
        return self._start + self._index

    @property
    def remaining(self) -> int:
        """Bytes between the position and the end of the file."""
        return self._size - self.position

    def require(self, num_bytes: int, what: str) -> None:
        """Checks that `num_bytes` more bytes exist, and that the header stays within reason."""
        if num_bytes > self.remaining:
            raise self.truncated(what)
        if self.position + num_bytes > MAX_HEADER_BYTES:
            raise MalformedGGUF(
                f"{self._label} has a header of more than {MAX_HEADER_BYTES >> 20} MiB, which no "
                "model needs: the file is damaged, download it again"
            )

    def truncated(self, what: str) -> MalformedGGUF:
        """The error for a file that ends inside `what`."""
        return MalformedGGUF(
            f"{self._label} ends inside its header ({what}, at byte {self.position} of "
            f"{self._size}): the download is incomplete or damaged, download it again"
        )

    def take(self, num_bytes: int, what: str) -> bytes:
        """The next `num_bytes` bytes."""
        self.require(num_bytes, what)
        self._fill(num_bytes, what)
        taken = self._window[self._index : self._index + num_bytes]
        self._index += num_bytes
        return taken

    def skip(self, num_bytes: int, what: str) -> None:
        """Moves on without reading."""
        self.require(num_bytes, what)
        self._index += num_bytes

    def u32(self, what: str) -> int:
        """An unsigned 32-bit number."""
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        """An unsigned 64-bit number."""
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str) -> bytes:
        """A 64-bit length and that many bytes."""
        return self.take(self._checked_length(self.u64(what), what), what)

    def skip_strings(self, count: int, what: str) -> None:
        """Moves past `count` strings."""
        if count * 8 > self.remaining:
            raise self.truncated(what)
        if count > MAX_STRINGS:
            raise MalformedGGUF(
                f"{self._label} has {count} strings in {what}, where at most {MAX_STRINGS} make "
                "sense: the file is damaged, download it again"
            )
        while count:
            self.require(8, what)
            self._fill(8, what)
            starts, end = walk_strings(self._window, self._index, count)
            self._index = int(starts[-1]) + 8
            self.skip(self._checked_length(end - self._index, what), what)
            count -= len(starts)

    def _checked_length(self, length: int, what: str) -> int:
        if length > self.remaining:
            raise self.truncated(what)
        if length > MAX_STRING_BYTES:
            raise MalformedGGUF(
                f"{self._label} has a string of {length} bytes in {what}, where at most "
                f"{MAX_STRING_BYTES} make sense: the file is damaged, download it again"
            )
        return length

    def _fill(self, num_bytes: int, what: str) -> None:
        """Makes the window hold the next `num_bytes` bytes."""
        if self._index + num_bytes <= len(self._window):
            return
        self._start, self._index = self.position, 0
        wanted = min(max(num_bytes, WINDOW_BYTES), self.remaining)
        self._window = read_at(self._descriptor, self._start, wanted)
        if len(self._window) < num_bytes:
            raise self.truncated(what)


def read_at(descriptor: int, offset: int, num_bytes: int) -> bytes:
    """Up to `num_bytes` bytes from `offset`; fewer only where the file ends."""
    pieces: list[bytes] = []
    while num_bytes:
        piece = os.pread(descriptor, num_bytes, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        num_bytes -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def string_starts(data: bytes, count: int) -> NDArray[np.int64]:
    """Positions of all `count` strings of an array. Raises ValueError if `data` is not theirs."""
    starts, end = walk_strings(data, 0, count)
    if len(starts) != count or end != len(data):
        raise ValueError("the strings do not fill the array")
    return starts


def walk_strings(data: bytes, index: int, count: int) -> tuple[NDArray[np.int64], int]:
    """Positions of up to `count` strings from `index` on, and where the next one would start.

    Stops at the first string whose length is not wholly in `data`; the last one's bytes may lie
    beyond the end of `data`.
    """
    pieces = [np.empty(0, np.int64)]
    block = FIRST_BLOCK
    while count and index + 8 <= len(data):
        wanted = min(count, block)
        starts = _walk_short(data, index, wanted)
        if len(starts):
            index = int(starts[-1]) + 8 + data[int(starts[-1])]
        if len(starts) == wanted:
            block = min(2 * block, LAST_BLOCK)
        else:
            others, index = _walk_any(data, index, min(wanted - len(starts), SLOW_RUN))
            starts = np.concatenate([starts, others])
            block = FIRST_BLOCK
        pieces.append(starts)
        count -= len(starts)
    return np.concatenate(pieces), index


def _walk_short(data: bytes, index: int, count: int) -> NDArray[np.int64]:
    """Up to `count` strings for as long as they are shorter than 256 bytes.

    The walk adds up the low bytes of the lengths, which is as little as can be done per string
    in Python; numpy then looks at all the high bytes at once.
    """
    starts: list[int] = []
    append = starts.append
    try:
        for _ in range(count):
            step = data[index]
            append(index)
            index += 8 + step
    except IndexError:
        pass
    found = np.array(starts, dtype=np.int64)
    found = found[found <= len(data) - 8]
    lengths = np.ndarray((len(data) - 7,), np.dtype("<u8"), buffer=data, strides=(1,))[found]
    is_long = lengths > 0xFF
    return found[: int(np.argmax(is_long))] if is_long.any() else found


def _walk_any(data: bytes, index: int, count: int) -> tuple[NDArray[np.int64], int]:
    """Up to `count` strings of any length."""
    starts: list[int] = []
    while len(starts) < count and index + 8 <= len(data):
        starts.append(index)
        index += 8 + U64.unpack_from(data, index)[0]
    return np.array(starts, dtype=np.int64), index
