"""Memory that blocks are read into, used again.

A fresh page costs several times what it takes to fill it: it is faulted in and zeroed first (50 MB
in pages of 4 KiB: 30 ms on a virtual machine, beside 6 ms for the copy). Where blocks come and go,
the memory of those that went is there already; the allocator gives it back to the system too soon.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque

import numpy as np

SPARE_BYTES = 2**27
"""Free memory that is kept: the blocks of a prompt of a few thousand tokens."""
_SPARE_BUFFERS = 256  # all of them are looked at when one is taken
_ALIGNMENT = 64  # what a file has at such an offset is copied to such an address: twice as fast
_WASTE = 8  # a buffer may be larger by an eighth than what is put into it, for budgets count that


class Buffers:
    """Lends buffers to one thread; any thread may let go of what was lent."""

    def __init__(self, spare_bytes: int = SPARE_BYTES) -> None:
        self._spare_bytes = spare_bytes
        self._free: deque[np.ndarray] = deque()
        self._free_bytes = 0
        # Reentrant: what is lent may be let go of wherever memory is allocated, in here as well.
        self._lock = threading.RLock()

    @property
    def free_bytes(self) -> int:
        """What is kept without being used."""
        return self._free_bytes

    def take(self, nbytes: int) -> memoryview:
        """Room for so many bytes, which hold anything. It is free again when nobody refers to it.

        Raises MemoryError.
        """
        kept = self._fitting(nbytes)
        if kept is None:
            kept = _aligned(nbytes)
        lent = kept[:nbytes]
        weakref.finalize(lent, self._give_back, kept).atexit = False
        return lent.data

    def _fitting(self, nbytes: int) -> np.ndarray | None:
        with self._lock:
            for place in range(len(self._free)):
                size = self._free[place].nbytes
                if nbytes <= size <= nbytes + nbytes // _WASTE:
                    return self._removed(place)
            if self._is_full(nbytes) and self._free:
                self._removed(0)  # nobody wanted the oldest for the longest time
        return None

    def _removed(self, place: int) -> np.ndarray:
        kept = self._free[place]
        del self._free[place]
        self._free_bytes -= kept.nbytes
        return kept

    def _give_back(self, kept: np.ndarray) -> None:
        with self._lock:
            if not self._is_full(kept.nbytes):
                self._free.append(kept)
                self._free_bytes += kept.nbytes

    def _is_full(self, nbytes: int) -> bool:
        is_many = len(self._free) >= _SPARE_BUFFERS
        return is_many or self._free_bytes + nbytes > self._spare_bytes


def _aligned(nbytes: int) -> np.ndarray:
    room = np.empty(nbytes + _ALIGNMENT, np.uint8)  # a bytearray would be filled with zeros first
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + nbytes]
