"""Runs a step, and takes it apart when it cannot be run as it is.

No room: idle cells go first, then the youngest sequence of the lowest priority gives up its own;
who is alone and still does not fit has grown out of the context. Too slow: smaller next time. An
error: row by row, until it is known whose it is.

In lanes llama.cpp computes rows together only while their ids follow each other without a gap, so
a gap is bridged by a row of whatever sits there, which is removed again at once.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as List
from typing import TypeVar

import msgspec

from samovar.engine.scheduler import Scheduler
from samovar.engine.sequence import Phase, Sequence
from samovar.engine.step import Step, StepRow
from samovar.errors import DecodeTimeout, SamovarError
from samovar.native.interface import (
    Aborted,
    Backend,
    Logprobs,
    NoRoom,
    Row,
    RowFailed,
    Sampled,
    StateKind,
    Stepped,
)

Result = Sampled | RowFailed | None
_T = TypeVar("_T")


class Broken(msgspec.Struct, frozen=True):
    """A sequence that cannot be computed further; without an error it is out of room."""

    sequence: Sequence
    error: SamovarError | None = None


class Scored(msgspec.Struct, frozen=True):
    """Log-probabilities of the tokens of a prompt from `start` on."""

    sequence: Sequence
    start: int
    logprobs: tuple[Logprobs, ...]


class Outcome(msgspec.Struct, frozen=True):
    """What came of a step."""

    results: tuple[tuple[Sequence, Result], ...] = ()
    broken: tuple[Broken, ...] = ()
    scores: tuple[Scored, ...] = ()
    is_whole: bool = False
    """Whether all of it was one decode call that went well: its time is a measurement."""


class Batch:
    """Brings steps to the backend of one engine."""

    def __init__(
        self, backend: Backend, scheduler: Scheduler, before_preempt: Callable[[Sequence], None]
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._before_preempt = before_preempt
        self._can_bridge = backend.num_cells is None and backend.state_kind is StateKind.DIVISIBLE

    def compute(self, step: Step) -> Outcome:
        """Compute a step, or as much of it as can be."""
        is_kept_alike = self._is_kept_alike(step)
        rows = [self._row(row, wants_logits=is_kept_alike) for row in step.rows]
        bridges = self._bridges(step, is_kept_alike=is_kept_alike)
        try:
            outcome = self._backend.step(_merged(rows, bridges) if bridges else rows)
        except SamovarError as error:
            return self._one_by_one(step, error)
        finally:
            if bridges:
                self._remove(bridges)
        if isinstance(outcome, NoRoom):
            return self._make_room(step)
        if isinstance(outcome, Aborted):
            return self._interrupted(step, outcome)
        scores = _scores(step, bridges, outcome) if outcome.scores else ()
        self._scheduler.advance(step)
        return Outcome(_results(step, bridges, outcome), scores=scores, is_whole=True)

    def _is_kept_alike(self, step: Step) -> bool:
        """Whether all its rows must be computed as they are in every other company.

        In deterministic mode single tokens are. Alone, one has other last bits, and so have its
        logits when no other row's are asked for.
        """
        return self._scheduler.limits.is_deterministic and step.is_decode_only

    def _row(self, row: StepRow, *, wants_logits: bool) -> Row:
        sequence, catches_up = row.sequence, row.catches_up
        assert sequence.seq_id is not None
        sampler = sequence.sampler if catches_up and sequence.samples else None
        # Also where nothing is picked: a state that cannot be cut is kept with what follows it.
        wants = wants_logits or catches_up
        following = row.following if sequence.is_scored else ()
        if not following:
            return Row(sequence.seq_id, row.tokens, sampler, wants_logits=wants)
        return Row(
            sequence.seq_id,
            row.tokens,
            sampler,
            wants_logits=wants,
            following=following,
            num_alternatives=sequence.request.prompt_logprobs or 0,
        )

    # ---- when it does not go well -------------------------------------------------------------

    def _one_by_one(self, step: Step, error: SamovarError) -> Outcome:
        if len(step.rows) == 1:
            return Outcome(broken=(Broken(step.rows[0].sequence, error),))
        outcomes = [
            self.compute(Step((row,), step.adapters))
            for row in step.rows
            if row.sequence.phase is Phase.RUNNING  # another one's may have cost it its cells
        ]
        return Outcome(
            tuple(result for outcome in outcomes for result in outcome.results),
            tuple(broken for outcome in outcomes for broken in outcome.broken),
            tuple(scored for outcome in outcomes for scored in outcome.scores),
        )

    def _make_room(self, step: Step) -> Outcome:
        scheduler = self._scheduler
        idle = scheduler.seats.idle()
        if idle:
            scheduler.seats.empty(idle[0])
            return Outcome()
        victim = scheduler.victim()
        if victim is not None:
            self._before_preempt(victim)
            scheduler.preempt(victim)
            return Outcome()
        if scheduler.shrink(step):
            return Outcome()
        return Outcome(broken=tuple(Broken(row.sequence) for row in step.rows))

    def _interrupted(self, step: Step, outcome: Aborted) -> Outcome:
        self._scheduler.lost(outcome.lost)
        if self._scheduler.shrink(step):
            return Outcome()
        error = DecodeTimeout(
            "computing one token took longer than a decode call may; give the model more threads"
            " or raise decode_seconds"
        )
        if outcome.lost and len(step.rows) > 1:
            # They are to be computed from the start; alone, none of them can lose the others.
            return Outcome()
        return self._one_by_one(step, error)

    # ---- bridges ------------------------------------------------------------------------------

    def _bridges(self, step: Step, *, is_kept_alike: bool) -> list[Row]:
        if not self._can_bridge:
            return []
        present = [row.sequence.seq_id or 0 for row in step.rows]
        gaps = _gaps(present)
        if is_kept_alike:
            gaps = gaps if len(present) > 1 else [self._neighbour(present[0])]
            for seq_id in gaps:
                self._make_bridgeable(seq_id)
        elif len(gaps) >= len(present):
            return []  # more rows for nothing than rows that are joined by them
        if not gaps or step.num_tokens + len(gaps) > self._backend.batch_size:
            return []
        room = self._scheduler.limits.context_length
        if any(self._scheduler.seats[i].num_cells >= room for i in gaps):
            return []
        token = step.rows[0].tokens[0]
        return [Row(i, [token], wants_logits=is_kept_alike) for i in gaps]

    def _neighbour(self, seq_id: int) -> int:
        """Any lane beside it: a row in company is computed otherwise than a row alone."""
        return seq_id + 1 if seq_id + 1 < self._backend.num_sequences else seq_id - 1

    def _make_bridgeable(self, seq_id: int) -> None:
        """Give up an idle lane that is full to the last cell: there is no room for a bridge."""
        seat = self._scheduler.seats[seq_id]
        if seat.num_cells >= self._scheduler.limits.context_length and seat.holder is None:
            self._scheduler.seats.empty(seat)
            self._backend.seq_rm(seq_id)

    def _remove(self, bridges: List[Row]) -> None:
        for row in bridges:
            held = self._scheduler.seats[row.seq_id].num_cells
            if len(self._backend.tokens(row.seq_id)) > held:
                self._backend.seq_rm(row.seq_id, held)


def _gaps(present: List[int]) -> list[int]:
    """The ids that are missing among some that ascend."""
    if present[-1] - present[0] < len(present):
        return []
    ids = set(present)
    return [i for i in range(present[0], present[-1]) if i not in ids]


def _merged(rows: list[Row], bridges: list[Row]) -> list[Row]:
    return sorted(rows + bridges, key=lambda row: row.seq_id)


def _results(
    step: Step, bridges: list[Row], outcome: Stepped
) -> tuple[tuple[Sequence, Result], ...]:
    results = _own(step, bridges, outcome.results) if bridges else outcome.results
    return tuple([(row.sequence, r) for row, r in zip(step.rows, results, strict=True)])


def _scores(step: Step, bridges: list[Row], outcome: Stepped) -> tuple[Scored, ...]:
    """Before the step is accounted: where a row begins is where its sequence has come to."""
    found = zip(step.rows, _own(step, bridges, outcome.scores), strict=True)
    return tuple(
        Scored(row.sequence, row.sequence.num_computed + 1, scores)
        for row, scores in found
        if scores
    )


def _own(step: Step, bridges: list[Row], found: List[_T]) -> list[_T]:
    """What came of the rows of the step, without bridges."""
    bridged = {row.seq_id for row in bridges}
    ids = sorted([*bridged, *(row.sequence.seq_id or 0 for row in step.rows)])
    return [one for i, one in zip(ids, found, strict=True) if i not in bridged]
