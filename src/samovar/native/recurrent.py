"""The recurrent state of a sequence: one cell, and rows that llama.cpp does not clear.

    u32 cells, 1; i32 position; u32 sequences, 0; u32 transposed, 0; u32 layers
    per layer that has them: i32 type, u64 bytes, the row of the convolution
    per layer that has them: i32 type, u64 bytes, the row of the state

A new sequence begins with a state of zeros, and llama.cpp makes one by multiplying what lies in
the cell by 0. What is infinite or no number becomes no number, and so does everything that is
computed in that cell from then on, whoever's it is. So such a state is written over.
"""

from __future__ import annotations

import struct

import numpy as np

from samovar.native.blob import HEADER

_CELL = struct.Struct("<IiI")
_LAYERS = struct.Struct("<II")
_ROW = struct.Struct("<iQ")


def begins(blob: np.ndarray, start: int, cells: int) -> bool:
    """Whether a recurrent state of one sequence that ends at `cells - 1` begins there."""
    return blob[start : start + _CELL.size].tobytes() == _CELL.pack(1, cells - 1, 0)


def cleared(blob: np.ndarray) -> np.ndarray | None:
    """A blob of nothing but a recurrent state, its rows made zeros; None: it is of another kind."""
    zeros, start = blob.copy(), HEADER + _CELL.size + _LAYERS.size
    while start + _ROW.size <= len(blob):
        _, size = _ROW.unpack(blob[start : start + _ROW.size].tobytes())
        start += _ROW.size
        zeros[start : start + size] = 0
        start += size
    return zeros if start == len(blob) else None
