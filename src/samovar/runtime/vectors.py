"""Vectors that a worker left in shared memory."""

from __future__ import annotations

import os

import numpy as np


def read_vectors(fd: int, rows: int, width: int) -> np.ndarray:
    """float32 of (rows, width); closes the descriptor, and the memory goes with it.

    A copy, because a mapping would hold a descriptor of its own for as long as the array lives.
    Raises OSError when less is there than was said.
    """
    vectors = np.empty((rows, width), np.float32)
    with os.fdopen(fd, "rb", buffering=0) as file:
        left = vectors.reshape(-1).view(np.uint8).data
        file.seek(0)
        while left:
            size = file.readinto(left)
            if not size:
                raise OSError("the vectors are shorter than was said")
            left = left[size:]
    return vectors
