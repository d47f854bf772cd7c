"""What the state blobs of one model are made of, and the refusal of those that are not.

llama.cpp believes a blob. A recurrent state that says that it is of two cells ends the process; a
cell of a negative position is never found again by a removal, and whatever comes next in that
sequence sees it. So the numbers of a blob are looked at before it is handed over: layers, types
and widths are the model's, and the cells are the positions that they must be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samovar.errors import StateRejected
from samovar.native import recurrent
from samovar.native.blob import HEADER, Layout, Section, Unparsable, parse, readings
from samovar.native.interface import StateKind

_DROPPED = "it was dropped and will be computed again"


@dataclass(frozen=True, slots=True)
class Shape:
    """The sections of a model's blobs, in order; none at all: they could not be read."""

    attention: Layout | None = None
    window: Layout | None = None
    """The cells of a sliding window: a section like that of attention."""
    recurrent_bytes: int = 0
    """Length of the recurrent state, which comes last."""

    @property
    def kind(self) -> StateKind:
        """How such a state can be cut, if it proves to be what it looks like."""
        attention = self.attention
        if attention is None or not attention.row_bytes:
            return StateKind.INDIVISIBLE
        if self.window is not None and self.recurrent_bytes:
            return StateKind.INDIVISIBLE
        has_tail = self.window is not None or self.recurrent_bytes > 0
        return StateKind.DIVISIBLE_WITH_TAIL if has_tail else StateKind.DIVISIBLE

    def check_whole(self, blob: np.ndarray, cells: int, horizon: int) -> None:
        """Raise StateRejected unless a blob is of this shape and ends at position `cells - 1`.

        A window must begin at `horizon` or before: that far back the next token looks.
        """
        start = HEADER
        if self.attention is not None:
            section = _require(blob, start, self.attention)
            _require_positions(section.positions, 0, cells)
            start = section.end
        self.check_tail(blob, start, cells, horizon)

    def check_tail(self, blob: np.ndarray, start: int, cells: int, horizon: int) -> None:
        """The same of what begins at `start`, behind the attention section."""
        if self.window is not None:
            section = _require(blob, start, self.window)
            first = cells - len(section.positions)
            _require_positions(section.positions, first, cells)
            if first > horizon:
                raise StateRejected(f"a saved window lacks positions from {horizon} on; {_DROPPED}")
            start = section.end
        if self.recurrent_bytes:
            is_whole = len(blob) - start == self.recurrent_bytes
            if not is_whole or not recurrent.begins(blob, start, cells):
                raise StateRejected(f"a saved state is not one of {cells} tokens; {_DROPPED}")


def find_shape(whole: np.ndarray, partial: np.ndarray, tokens: Sequence[int]) -> Shape | None:
    """The shape of a model's blobs, from both blobs of a sequence of these tokens.

    None: there is something in them that is not understood.
    """
    cells = len(tokens)
    tail = len(partial) - HEADER if len(partial) < len(whole) else 0
    start = len(whole) - tail
    if not np.array_equal(whole[start:], partial[len(partial) - tail :]):
        return None
    if not tail and recurrent.begins(whole, HEADER, cells):
        return Shape(recurrent_bytes=len(whole) - HEADER)
    attention = next((s for s in readings(whole, HEADER) if s.end == start), None)
    if attention is None or not attention.is_text(tokens):
        return None
    if not tail or recurrent.begins(whole, start, cells):
        return Shape(attention.layout, recurrent_bytes=tail)
    for window in readings(whole, start):
        if window.end == len(whole) or recurrent.begins(whole, window.end, cells):
            return Shape(attention.layout, window.layout, len(whole) - window.end)
    return None


def _require(blob: np.ndarray, start: int, layout: Layout) -> Section:
    try:
        section = parse(blob, start, layout.ext_bytes, has_v=layout.has_v)
    except Unparsable:
        section = None
    if section is None or section.layout != layout:
        raise StateRejected(f"a saved state has other layers than this model; {_DROPPED}")
    return section


def _require_positions(found: np.ndarray, start: int, end: int) -> None:
    """Each of `start` to `end - 1` once, in any order."""
    if start < 0 or not np.array_equal(np.sort(found), np.arange(start, end)):
        raise StateRejected(f"a saved state has not the positions of {end} tokens; {_DROPPED}")
