"""Keeps running lanes next to each other.

llama.cpp computes rows of several lanes together only while their ids follow each other without a
gap. A few gaps are bridged (`batch.py`), until the running lane with the highest id moves down: as
soon as that costs less than the rows or micro-batches it saves. What sat there idle moves up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from samovar.engine.latency import StepCosts
from samovar.engine.scheduler import Scheduler
from samovar.engine.seats import Seat
from samovar.engine.sequence import Sequence
from samovar.errors import SamovarError
from samovar.native.interface import Backend, Range, StateKind

_FIRST_CELL_SECONDS = 30e-6  # of moving one cell, until it was measured: a slow guess
_PAYS = 2.0  # times what it costs: the sequence may end earlier than it could


@dataclass(frozen=True, slots=True)
class Move:
    """A running sequence goes from one seat to a lower one."""

    source: int
    target: int


def next_move(scheduler: Scheduler, *, can_bridge: bool, cell_seconds: float) -> Move | None:
    """The move that pays, if one does: in steps that take less time than before."""
    if len(scheduler.running) < 2:
        return None
    ids = [one.seq_id for one in scheduler.running if one.seq_id is not None]
    if ids[-1] - ids[0] < len(ids):
        return None
    taken = set(ids)
    free = [i for i in range(ids[0], ids[-1]) if i not in taken and scheduler.seats[i].is_takeable]
    if not free:
        return None
    holder = scheduler.seats[ids[-1]].holder
    assert holder is not None
    saved = _steps_left(holder) * _saved(scheduler.costs, ids, free[0], can_bridge=can_bridge)
    cells = holder.num_computed + scheduler.seats[free[0]].num_cells
    return Move(ids[-1], free[0]) if saved > _PAYS * cells * cell_seconds else None


def _saved(costs: StepCosts, ids: list[int], target: int, *, can_bridge: bool) -> float:
    """Seconds of a step that the last of the ids saves by going to `target`.

    A gap that is bridged costs a row, which is dear where weights are not what a step waits for:
    on two cores 15 rows take almost twice as long as 8. One that is not costs a micro-batch.
    """
    num_gaps = ids[-1] - ids[0] + 1 - len(ids)
    if not can_bridge or num_gaps >= len(ids):
        return costs.decode(1)
    last = max(ids[-2], target)
    return (ids[-1] - last) * costs.row(len(ids))


def _steps_left(sequence: Sequence) -> int:
    return max(0, sequence.limit - sequence.num_tokens)


class Packing:
    """Moves lanes of one engine, at most one before each step."""

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._clock = clock
        self._cell_seconds = _FIRST_CELL_SECONDS
        self._is_divisible = backend.state_kind is StateKind.DIVISIBLE
        self._can_move = backend.num_cells is None and backend.state_kind is not StateKind.NONE

    def pack(self) -> None:
        """Move a lane if that pays."""
        if not self._can_move:
            return
        move = next_move(
            self._scheduler, can_bridge=self._is_divisible, cell_seconds=self._cell_seconds
        )
        if move is None:
            return
        seats = self._scheduler.seats
        source, target = seats[move.source], seats[move.target]
        cells = source.num_cells + target.num_cells
        started = self._clock()
        if not self._exchange(source, target):
            return
        seconds = (self._clock() - started) / max(1, cells)
        self._cell_seconds = 0.5 * (self._cell_seconds + seconds)

    def _exchange(self, source: Seat, target: Seat) -> bool:
        """Carry a move out. False, and everything as it was, when the state does not move."""
        backend = self._backend
        holder = source.holder
        assert holder is not None
        left = target.left()
        try:
            up = self._taken_out(target.seq_id, len(left.tokens))
            if source.num_cells:
                backend.seq_cp(source.seq_id, target.seq_id)
            else:
                backend.seq_rm(target.seq_id)
        except SamovarError:
            backend.seq_rm(target.seq_id)
            target.wipe()
            return False
        backend.seq_rm(source.seq_id)
        target.wipe()
        self._scheduler.move(source, target)
        if up is None:
            return True
        try:
            backend.import_ranges(source.seq_id, left.tokens, up)
        except SamovarError:
            backend.seq_rm(source.seq_id)  # it was idle: its cells are only warmth
            return True
        source.fill(left)
        return True

    def _taken_out(self, seq_id: int, length: int) -> list[Range] | None:
        """The idle cells of a lane; None when there are none, or they cannot be kept."""
        if not length or not self._is_divisible:
            return None
        try:
            return self._backend.export_ranges(seq_id, [(0, length)])
        except SamovarError:
            return None  # computed under other adapters than are applied now
