"""A sequence's blob that is filled block by block, before llama.cpp takes it whole.

Everything but the rows is known from the tokens and is written at once; the rows of each range may
come in any order and from any thread, as long as no place is written twice at the same time.
Nothing of it is in the cells until the codec hands it over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from samovar.errors import StateRejected
from samovar.native.blob import Layout, write_frame


class LlamaPiece:
    """The attention section of one sequence, its rows still to come.

    `blob` is filled to its end; the layout must not be transposed, where the rows of a range lie in
    as many places as it has elements.
    """

    def __init__(
        self, blob: np.ndarray, seq_id: int, streams: int, layout: Layout, tokens: Sequence[int]
    ) -> None:
        self.blob = blob
        self.seq_id = seq_id
        self.tokens = tuple(tokens)
        self._layout = layout
        frame = write_frame(blob, seq_id, streams, layout, tokens)
        self._rows = [rows for group in frame.groups for rows in group.rows]

    def places(self, start: int, end: int) -> list[np.ndarray]:
        """See native.interface.Piece."""
        if not 0 <= start < end <= len(self.tokens):
            raise StateRejected(f"no range {start} to {end} in a piece of {len(self.tokens)}")
        return [
            rows[start * part.row_bytes : end * part.row_bytes]
            for part, rows in zip(self._layout.parts, self._rows, strict=True)
        ]
