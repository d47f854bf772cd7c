"""Memory for blobs on their way into cells, used again: a fresh page costs more than its copy.

What is lent is kept for the next one when nobody refers to it any more, whichever thread let go of
it last. Lent and kept together never come to more than a number of bytes, unless a single one is
larger: it is lent alone, and not kept.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np

MOST_BYTES = 2**28
"""Nobody counted on more than that beside the cells."""


class Scratch:
    """Buffers of one codec."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0  # lent and kept
        self._kept: list[np.ndarray] = []
        # Reentrant: what is lent may be let go of wherever memory is allocated, in here as well.
        self._lock = threading.RLock()

    @property
    def nbytes(self) -> int:
        """Bytes that are lent or kept."""
        return self._bytes

    def lend(self, nbytes: int) -> np.ndarray | None:
        """So many bytes, which hold anything. None: too many are lent already, or there are none.

        They are free again when neither the array nor any view of it is left.
        """
        with self._lock:
            found = self._fitting(nbytes)
            if found is None:
                found = self._fresh(nbytes)
        if found is None:
            return None
        lent = found[:nbytes]
        weakref.finalize(lent, self._take_back, found).atexit = False
        # Views of an array refer to its base; those of a buffer keep the buffer.
        return np.frombuffer(lent.data, np.uint8)

    def _fitting(self, nbytes: int) -> np.ndarray | None:
        fitting = [(one.nbytes, at) for at, one in enumerate(self._kept) if one.nbytes >= nbytes]
        return self._kept.pop(min(fitting)[1]) if fitting else None

    def _fresh(self, nbytes: int) -> np.ndarray | None:
        """A new one, in place of kept ones, which are all too small for it."""
        lent = self._bytes - sum(one.nbytes for one in self._kept)
        if lent and lent + nbytes > self._most_bytes:
            return None
        while self._kept:
            self._bytes -= self._kept.pop().nbytes
        room = min(nbytes + nbytes // 8, self._most_bytes - self._bytes)  # for it grows by tokens
        try:
            found = np.empty(max(nbytes, room), np.uint8)
        except MemoryError:
            return None
        self._bytes += found.nbytes
        return found

    def _take_back(self, found: np.ndarray) -> None:
        with self._lock:
            if found.nbytes <= self._most_bytes:
                self._kept.append(found)
            else:
                self._bytes -= found.nbytes
