"""The state of a sequence as ranges of KV rows and a tail, and back in one call.

A *payload* is the rows of some cells, K of each layer and then V of each layer, and nothing else:
no position, sequence id, stream or count, so it fits any sequence of any context of the same
model. What a cell says of itself beside its rows is told from the tokens. A *tail* is kept without
the number of streams, so that it fits as well. The layout of the blob that both are cut from is
`blob`'s.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from samovar.errors import NativeError, StateRejected
from samovar.native.blob import (
    HEADER,
    MAGIC,
    PARTIAL,
    Layout,
    Section,
    Unparsable,
    add_streams,
    parse,
    strip_streams,
    write_attention,
)
from samovar.native.context import Context
from samovar.native.interface import Range, StateKind
from samovar.native.piece import LlamaPiece
from samovar.native.scratch import MOST_BYTES, Scratch
from samovar.native.shape import Shape


class Codec:
    """Exports and imports the state of sequences of one context."""

    def __init__(self, context: Context, kind: StateKind, shape: Shape | None = None) -> None:
        self.kind = kind
        self._shape = shape or Shape()  # of which nothing can be checked
        self._context = context
        self._streams = context.num_streams
        self._out, self._in = _Scratch(), Scratch()

    @property
    def layout(self) -> Layout | None:
        """What a range is cut from; None: the state has no ranges."""
        divisible = self.kind in (StateKind.DIVISIBLE, StateKind.DIVISIBLE_WITH_TAIL)
        return self._shape.attention if divisible else None

    # -- whole states

    def export_whole(self, seq_id: int) -> bytes:
        """The state as llama.cpp wrote it, without the header that names the sequence."""
        return self._read(seq_id)[HEADER:].tobytes()

    def import_whole(self, seq_id: int, state: bytes, cells: int) -> None:
        """Replace the sequence by a state of `cells` positions.

        Raises StateRejected when it is of another shape or length, and when llama.cpp refuses; the
        sequence is then empty, or as it was.
        """
        blob = self._blob(HEADER + len(state))
        blob[:HEADER] = np.frombuffer(struct.pack("<Ii", MAGIC, seq_id), np.uint8)
        blob[HEADER:] = np.frombuffer(state, np.uint8)
        self._shape.check_whole(blob, cells, self._context.model.horizon(cells))
        self._hand_over(seq_id, blob, cells)

    # -- ranges

    def export_ranges(self, seq_id: int, bounds: Sequence[tuple[int, int]]) -> list[Range]:
        """The rows of each (start, end) of positions, from one pass over the sequence."""
        layout = self._divisible()
        if not bounds:
            return []
        blob = self._read(seq_id)
        section = self._section(blob)
        order = _order(section.positions)
        return [_cut(section, layout, order, start, end) for start, end in bounds]

    def export_tail(self, seq_id: int) -> bytes:
        """The tail at the sequence's end; empty when the model has none."""
        if self.kind is not StateKind.DIVISIBLE_WITH_TAIL:
            return b""
        tail = self._read(seq_id, PARTIAL)[HEADER:].tobytes()
        return strip_streams(tail, self._streams) if self._shape.window else tail

    def import_ranges(
        self, seq_id: int, tokens: Sequence[int], ranges: Sequence[Range], tail: bytes = b""
    ) -> None:
        """Replace the sequence by the rows of `ranges`, which cover `tokens` from the first on.

        One blob is built and handed over in one call. Raises StateRejected for gaps, payloads of
        another size and a tail of another shape or position, and when llama.cpp refuses; the
        sequence is then empty, or as it was.
        """
        layout = self._divisible()
        cells = len(tokens)
        _check_ranges(ranges, cells, layout)
        if bool(tail) != (self.kind is StateKind.DIVISIBLE_WITH_TAIL):
            raise StateRejected("this model's state needs its tail, and only its own")
        if self._shape.window:
            tail = add_streams(tail, self._streams, seq_id)
        size = layout.section_bytes(cells, self._streams) + len(tail)
        blob = self._blob(HEADER + size)
        end = write_attention(blob, seq_id, self._streams, layout, tokens, ranges)
        blob[end:] = np.frombuffer(tail, np.uint8)
        self._shape.check_tail(blob, end, cells, self._context.model.horizon(cells))
        self._hand_over(seq_id, blob, cells)

    # -- pieces

    def new_piece(self, seq_id: int, tokens: Sequence[int]) -> LlamaPiece | None:
        """See Backend. None: the state has a tail or columns, or too much is on its way."""
        layout = self.layout
        if self.kind is not StateKind.DIVISIBLE or layout is None or layout.is_transposed:
            return None
        blob = self._in.lend(HEADER + layout.section_bytes(len(tokens), self._streams))
        return None if blob is None else LlamaPiece(blob, seq_id, self._streams, layout, tokens)

    def import_piece(self, piece: LlamaPiece) -> None:
        """Replace the sequence by a piece whose rows have all been written. Raises StateRejected.

        The sequence is then empty, or as it was.
        """
        self._hand_over(piece.seq_id, piece.blob, len(piece.tokens))

    # -- helpers

    def _blob(self, size: int) -> np.ndarray:
        blob = self._in.lend(size)
        return np.empty(size, np.uint8) if blob is None else blob

    def _divisible(self) -> Layout:
        if self.layout is None:
            raise StateRejected(f"the state of this model is {self.kind.value}: it has no ranges")
        return self.layout

    def _section(self, blob: np.ndarray) -> Section:
        layout = self._divisible()
        try:
            section = parse(blob, HEADER, layout.ext_bytes, has_v=layout.has_v)
        except Unparsable:
            raise NativeError("llama.cpp's state blob changed its shape") from None
        if section.layout != layout:
            raise NativeError("llama.cpp's state blob changed its shape")
        return section

    def _read(self, seq_id: int, flags: int = 0) -> np.ndarray:
        size = self._context.state_size(seq_id, flags)
        buffer = self._out.of(size)
        written = self._context.read_state(seq_id, buffer, flags)
        if not size or written != size:
            raise NativeError(f"llama.cpp wrote {written} of {size} bytes of a sequence's state")
        return buffer

    def _hand_over(self, seq_id: int, blob: np.ndarray, cells: int) -> None:
        context = self._context
        consumed = context.write_state(seq_id, blob)
        if consumed != len(blob):
            context.remove(seq_id, -1)
            raise StateRejected(
                "llama.cpp refused a saved state; it was dropped and will be computed again"
            )
        # Of two parts that end apart, one shows here: the last position is that of the part that
        # ends first, and the first position of a recurrent part is its last.
        if not context.first_position(seq_id) < cells == context.last_position(seq_id) + 1:
            context.remove(seq_id, -1)
            raise StateRejected(
                f"a saved state of {cells} tokens has parts that end elsewhere; it was dropped"
            )


class _Scratch:
    """One buffer that is used again: a fresh one of 50 MB costs more to fault in than to fill."""

    def __init__(self) -> None:
        self._kept = np.empty(0, np.uint8)

    def of(self, size: int) -> np.ndarray:
        """So many bytes, which hold anything."""
        if size > MOST_BYTES:
            return np.empty(size, np.uint8)
        if size > len(self._kept):  # and some more, because sequences grow by a token
            self._kept = np.empty(min(size + size // 8, MOST_BYTES), np.uint8)
        return self._kept[:size]


def _order(positions: np.ndarray) -> np.ndarray | None:
    """The cells in order of position; None when they lie in that order already."""
    expected = np.arange(len(positions))
    if np.array_equal(positions, expected):
        return None
    order = np.argsort(positions, kind="stable")
    if not np.array_equal(positions[order], expected):
        raise NativeError("the cells of a sequence are not positions 0 to n - 1")
    return order


def _cut(section: Section, layout: Layout, order: np.ndarray | None, start: int, end: int) -> Range:
    """Copy the rows of positions start to end into one payload."""
    count = end - start
    payload = np.empty(count * layout.row_bytes, np.uint8)
    offset = 0
    picked = slice(start, end) if order is None else order[start:end]
    for part, rows in zip(layout.parts, section.rows, strict=True):
        size = count * part.row_bytes
        target = payload[offset : offset + size]
        if part.width:
            target.reshape(part.width, count, -1)[:] = rows[:, picked]
        else:
            target.reshape(count, part.row_bytes)[:] = rows[picked]
        offset += size
    return Range(start, end, payload.data)


def _check_ranges(ranges: Sequence[Range], cells: int, layout: Layout) -> None:
    """Raise StateRejected unless the ranges follow each other from 0 to `cells`."""
    end = 0
    for piece in ranges:
        if piece.start != end or piece.end <= piece.start:
            raise StateRejected(f"ranges must follow each other: {piece.start} is not {end}")
        if piece.payload.nbytes != (piece.end - piece.start) * layout.row_bytes:
            raise StateRejected("a range of KV rows has another size than this model's rows")
        end = piece.end
    if end != cells:
        raise StateRejected("the ranges do not cover the tokens from first to last")
