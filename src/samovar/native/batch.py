"""The rows of one decode call, written through numpy views into arrays allocated once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp.llama_cpp as ll
import numpy as np


class Batch:
    """Up to `capacity` rows: a token, its position, its sequence, and whether logits are wanted.

    The native struct points into the numpy arrays, so filling a row is a store. Each row belongs
    to one sequence. Rows of one sequence are added in ascending order of position.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._seq_ids = np.zeros(capacity, np.int32)
        self._wants = np.zeros(capacity, np.int8)
        self._counts = np.ones(capacity, np.int32)
        self._ramp = np.arange(capacity, dtype=np.int32)
        # For single rows: storing one number into a numpy array takes twice as long.
        self._token_at, self._position_at = self._tokens.data, self._positions.data
        self._seq_id_at, self._wants_at = self._seq_ids.data, self._wants.data
        # Row i's list of sequences has one entry and lies at element i of _seq_ids.
        first, step = self._seq_ids.ctypes.data, self._seq_ids.itemsize
        self._seq_pointers = np.arange(first, first + capacity * step, step, dtype=np.uintp)
        self.native = ll.llama_batch(
            0,
            _pointer(self._tokens, ll.llama_token),
            None,
            _pointer(self._positions, ll.llama_pos),
            _pointer(self._counts, ctypes.c_int32),
            _pointer(self._seq_pointers, ctypes.POINTER(ll.llama_seq_id)),
            _pointer(self._wants, ctypes.c_int8),
        )

    def __len__(self) -> int:
        return int(self.native.n_tokens)

    def clear(self) -> None:
        """Forget the rows."""
        self.native.n_tokens = 0

    def add_one(self, seq_id: int, token: int, position: int) -> int:
        """Add one row that wants logits; returns its index."""
        native = self.native
        row: int = native.n_tokens
        self._token_at[row] = token
        self._position_at[row] = position
        self._seq_id_at[row] = seq_id
        self._wants_at[row] = 1
        native.n_tokens = row + 1
        return row

    def add(
        self,
        seq_id: int,
        tokens: Sequence[int],
        position: int,
        *,
        wants_logits: bool,
        wants_each: bool = False,
    ) -> int:
        """Add one row per token, the first at `position`; returns the index of the last.

        The last row gets logits if they are wanted, the others only if each is to have them. The
        caller has checked that the rows fit.
        """
        start: int = self.native.n_tokens
        end = start + len(tokens)
        self._tokens[start:end] = tokens
        np.add(self._ramp[: len(tokens)], position, out=self._positions[start:end])
        self._seq_ids[start:end] = seq_id
        self._wants[start:end] = wants_each
        self._wants[end - 1] = wants_logits
        self.native.n_tokens = end
        return end - 1


def _pointer(array: np.ndarray, kind: type) -> ctypes._Pointer:  # type: ignore[type-arg]
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
