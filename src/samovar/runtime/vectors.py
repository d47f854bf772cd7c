"""Vectors that a worker left in shared memory."""

from __future__ import annotations

import mmap
import os

import numpy as np


def read_vectors(fd: int, rows: int, width: int) -> np.ndarray:
    """float32 of (rows, width), without a copy; closes the descriptor. The memory goes with it."""
    try:
        size = rows * width * 4
        if not size:
            return np.empty((rows, width), np.float32)
        return np.frombuffer(mmap.mmap(fd, size), np.float32).reshape(rows, width)
    finally:
        os.close(fd)
