"""Who gets cells, and what the next step computes. Pure: no clock, no native call, no text.

    engine:  add, cancel ──> admit() ──> placements ──> place()
                                 └─> restoring() ──> restored()
                             schedule() ──> Step ──> (decode call) ──> advance / no_room / slow

What a step computes of those that run is `composing`'s business; this knows who they are.
"""

from __future__ import annotations

from collections.abc import Iterable

from samovar.engine.composing import Composing
from samovar.engine.composing import Limits as Limits
from samovar.engine.fairness import GENERATED_WEIGHT, Tenants, WaitingLine
from samovar.engine.latency import StepCosts
from samovar.engine.seats import LEAST_COPY, Placement, Seat, Seats
from samovar.engine.sequence import Phase, Sequence, common_prefix
from samovar.engine.step import Step

_SPARE_CELLS = 16  # per running sequence: who is admitted into the last cell is preempted at once


class Scheduler:
    """Waiting and running sequences of one context.

    Every sequence is in exactly one place: the waiting line, a seat, or gone.
    """

    def __init__(self, limits: Limits, seats: Seats, costs: StepCosts) -> None:
        self.limits = limits
        self.seats = seats
        self.costs = costs
        self.tenants = Tenants()
        self.waiting = WaitingLine(self.tenants)
        self._composing = Composing(limits, costs, self.tenants)
        self._running: list[Sequence] | None = None
        self._last: Step | None = None
        """The last step if it was one token of each that runs, and nobody came or went since."""
        self._is_crowded = False
        """Somebody was preempted, and nobody has left since: a newcomer would be the next."""

    # ---- coming and going ---------------------------------------------------------------------

    @property
    def seated(self) -> list[Sequence]:
        """Those that have a seat, by sequence id."""
        return [seat.holder for seat in self.seats if seat.holder is not None]

    @property
    def running(self) -> list[Sequence]:
        """Those whose cells are there, by sequence id: the others are being restored."""
        if self._running is None:
            self._running = [one for one in self.seated if one.phase is Phase.RUNNING]
        return self._running

    def _has_changed(self) -> None:
        """Another one runs, one less does, or one sits elsewhere."""
        self._running = self._last = None

    def add(self, sequence: Sequence) -> None:
        """A new sequence waits."""
        self.tenants.enter(sequence.request.tenant)
        self.waiting.add(sequence)

    def remove(self, sequence: Sequence, *, keeps_cells: bool) -> None:
        """The sequence ends. In the pool idle cells are given up, unless a session keeps them."""
        if sequence.phase is Phase.WAITING:
            self.waiting.remove(sequence)
        else:
            seat = self._seat(sequence)
            keeps = keeps_cells and (seat.session is not None or not self.seats.is_pool)
            keeps = keeps and sequence.num_computed > 0  # those that it waited for are reserved
            seat.leave(keep=keeps)
            self.seats.touch(seat)
            self._is_crowded = False
            if not keeps:
                self.seats.empty(seat)
        sequence.finish()
        self._has_changed()
        self.tenants.leave(sequence.request.tenant)

    def _seat(self, sequence: Sequence) -> Seat:
        assert sequence.seq_id is not None
        return self.seats[sequence.seq_id]

    # ---- admission ----------------------------------------------------------------------------

    def admit(self, now: float) -> Placement | None:
        """The next sequence that can be seated, and where; ask again until there is none.

        A sequence whose beginning is just being computed by another one waits for it. One that
        does not fit holds up those behind it, or a large one would wait for ever.
        """
        if not len(self.waiting) or not self.seats.has_free:
            return None
        if self._is_crowded and self.seated:
            return None
        for sequence in self.waiting.in_order(now):
            if not self._waits_for_another(sequence):
                return self._placed(sequence)
        return None

    def _placed(self, sequence: Sequence) -> Placement | None:
        """A seat and enough cells; in the pool idle ones give theirs up, the longest unused first.

        When nobody runs there is nothing to wait for, so it goes ahead: it was found to fit into
        the whole when it came.
        """
        placement = self.seats.place(sequence) or self._reclaim(sequence)
        ledger = self.seats.ledger
        if placement is None or ledger is None:
            return placement
        running = self.seated
        spare = _SPARE_CELLS * (len(running) + 1) if running else 0
        idle = self.seats.idle()
        if running and sequence.num_tokens + spare > ledger.num_free + placement.length + sum(
            ledger.own(seat.seq_id) for seat in idle
        ):
            return None
        while sequence.num_tokens - placement.length + 1 + spare > ledger.num_free and idle:
            rest = [seat for seat in idle if seat.seq_id != placement.source] or idle
            self.seats.empty(rest[0])
            idle.remove(rest[0])
            again = self.seats.place(sequence)
            assert again is not None  # there are only more empty seats than before
            placement = again
        if running and sequence.num_tokens - placement.length + 1 + spare > ledger.num_free:
            return None
        return placement

    def place(self, placement: Placement, num_computed: int, now: float) -> None:
        """The placement was carried out, and so many tokens are in the cells."""
        sequence = placement.sequence
        self.waiting.remove(sequence)
        sequence.admit(placement.seq_id, num_computed, now)
        sequence.turn = self._composing.turn
        ledger, target, source = self.seats.ledger, placement.seq_id, placement.source
        if ledger is not None:
            if source is not None and source != target:
                ledger.share(source, target, num_computed)
            else:
                ledger.cut(target, num_computed)
        self.seats.take(placement)
        self._has_changed()

    def restoring(self, sequence: Sequence, seq_id: int, length: int, now: float) -> None:
        """So many tokens are on their way to an id; the cells that they will take are taken."""
        self.waiting.remove(sequence)
        sequence.restore(seq_id, now)
        sequence.turn = self._composing.turn
        if self.seats.ledger is not None:
            self.seats.ledger.cut(seq_id, 0)
            self.seats.ledger.grow(seq_id, length)
        self.seats.take(Placement(sequence, seq_id))

    def restored(self, sequence: Sequence, length: int, now: float) -> None:
        """So many of them came."""
        assert sequence.seq_id is not None
        sequence.run(length, now)
        self._has_changed()
        if self.seats.ledger is not None:
            self.seats.ledger.cut(sequence.seq_id, 0)  # a second try may bring more than the first
            self.seats.ledger.grow(sequence.seq_id, length)

    def move(self, source: Seat, target: Seat) -> None:
        """The holder of one seat, whose cells went to another one, goes there too."""
        self.seats.move(source, target)
        self._has_changed()

    def room_for(self, sequence: Sequence) -> int | None:
        """The id to which all cells of a waiting sequence can be brought; None: there is no room.

        Nobody's cells are taken away for it but those that are idle there.
        """
        ledger, seq_id = self.seats.ledger, self.seats.vacant(sequence)
        if ledger is None or seq_id is None:
            return seq_id
        free = ledger.num_free + ledger.own(seq_id)
        spare = _SPARE_CELLS * (len(self.seated) + 1) if self.seated else 0
        return seq_id if sequence.num_tokens + 1 + spare <= free else None

    def _waits_for_another(self, sequence: Sequence) -> bool:
        """Whether a running sequence is about to have computed what this one begins with.

        Lets that one's chunk end where this one can take over.
        """
        cuts = self.seats.cuts
        if self._is_behind(sequence):
            return True
        for other in self.seated:
            if other.num_remaining <= 1 or other.salt != sequence.salt:
                continue
            if other.adapters != sequence.adapters:
                continue
            most = min(cuts.most(sequence), sequence.num_tokens - 1, other.num_tokens - 1)
            if most < LEAST_COPY or (other.is_scored and cuts.grid > 1):
                continue
            shared = min(common_prefix(other.tokens, sequence.tokens), most)
            shared = shared // cuts.grid * cuts.grid
            if shared - self._takeable(other, shared) < LEAST_COPY:
                continue
            # In the pool its cells may leave with the step in which they are computed.
            if other.must_end_at is None and (self.seats.is_pool or not cuts.is_divisible):
                other.must_end_at = shared
            if cuts.is_divisible or other.must_end_at == shared:
                sequence.behind, sequence.behind_until = other, shared
                return True
        return False

    @staticmethod
    def _is_behind(sequence: Sequence) -> bool:
        """Whether the one it waits for is still on its way: cheap, for it is asked every step."""
        other = sequence.behind
        if other is None:
            return False
        is_on_its_way = other.phase in (Phase.RESTORING, Phase.RUNNING)
        if is_on_its_way and other.num_computed < sequence.behind_until:
            return True
        sequence.behind = None
        return False

    def _takeable(self, other: Sequence, shared: int) -> int:
        """How many of the `shared` tokens another one could be copied of as it is."""
        done = min(shared, other.num_computed)
        if self.seats.cuts.is_divisible:
            return done if done >= LEAST_COPY else 0
        return shared if done == shared else 0  # now, or it went past them and never

    def _reclaim(self, sequence: Sequence) -> Placement | None:
        """A seat that is kept for an idle session, the longest unused first."""
        if self.seats.of_session(sequence.request.session) is not None:
            return None  # its own session is busy
        kept = [s for s in self.seats if s.holder is None and s.session is not None]
        if not kept:
            return None
        seat = min(kept, key=lambda seat: seat.last_used)
        seat.session = None
        if self.seats.is_pool:
            self.seats.empty(seat)  # whoever it is for may have to wait for more room
        return self.seats.place(sequence)

    # ---- the step -----------------------------------------------------------------------------

    def schedule(self) -> Step:
        """What to compute next. Empty when nothing is to be done."""
        last = self._last
        if last is not None and last.is_due_again:
            return last
        step = self._composing.compose(self.running)
        is_all = step.is_decode_only and len(step.rows) == len(self.running)
        self._last = step if is_all else None
        return step

    # ---- what came of it ----------------------------------------------------------------------

    def advance(self, step: Step) -> None:
        """Every row was computed."""
        ledger = self.seats.ledger
        for row in step.rows:
            one = row.sequence
            if ledger is not None and one.seq_id is not None:
                ledger.grow(one.seq_id, row.count)
            one.advance(row.count)
            if one.must_end_at is not None and one.num_computed >= one.must_end_at:
                one.must_end_at = None
            weight = GENERATED_WEIGHT if row.count == 1 else 1.0
            self.tenants.charge(one.request.tenant, weight * row.count)
        self._composing.grow()

    def shrink(self, step: Step) -> bool:
        """The step was too large or too slow: the next one will be smaller. False: it cannot be."""
        return self._composing.shrink(step)

    def victim(self, among: Iterable[Sequence] | None = None) -> Sequence | None:
        """Who gives its cells up: of the lowest priority the youngest. Never the only one."""
        candidates = list(self.running if among is None else among)
        if len(candidates) < 2:
            return None
        return min(candidates, key=lambda one: (one.request.priority, -one.order))

    def preempt(self, sequence: Sequence) -> None:
        """Take its cells away; it waits again."""
        seat = self._seat(sequence)
        seat.leave(keep=False)
        self.seats.empty(seat)
        sequence.preempt()
        self._has_changed()
        self.waiting.add(sequence)
        self._is_crowded = True

    def lost(self, seq_ids: Iterable[int]) -> None:
        """The cells of these ids had to be wiped."""
        for seq_id in seq_ids:
            seat = self.seats[seq_id]
            if seat.holder is None:
                self.seats.empty(seat)
                continue
            seat.holder.lose_cells()
            if self.seats.ledger is not None:
                self.seats.ledger.cut(seq_id, 0)
