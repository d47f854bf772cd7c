"""Who gets cells, and what the next step computes. Pure: no clock, no native call, no text.

    engine:  add, cancel ──> admit() ──> placements ──> place()
                                 └─> restoring() ──> restored()
                             schedule() ──> Step ──> (decode call) ──> advance / no_room / slow

Decoding sequences come first, one token each (or a few that a grammar forces); prefill gets what
the latency promise leaves, half of it the sequence that was admitted first, so that it gets on,
and half the one that was served least, so that a short prompt does not wait for a long one. When
nobody decodes, prompts go in full chunks of the fixed grid. Sequences under different adapters
take turns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from samovar.engine.fairness import GENERATED_WEIGHT, Tenants, WaitingLine
from samovar.engine.latency import StepCosts
from samovar.engine.seats import LEAST_COPY, Placement, Seat, Seats
from samovar.engine.sequence import Adapters, Phase, Sequence, common_prefix
from samovar.engine.step import Step, StepRow

FEW_TOKENS = 16  # not worth a chunk of their own, and what a grammar forces is rarely longer
_SPARE_CELLS = 16  # per running sequence: who is admitted into the last cell is preempted at once


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step and the context can hold."""

    batch_size: int
    context_length: int
    """Tokens of one sequence."""
    is_deterministic: bool = False
    most_scored: int = 256
    """Tokens of a step that have logits of their own, because log-probabilities are wanted."""


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
        self._largest_chunk = limits.batch_size
        self._turn = 0
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
        return [one for one in self.seated if one.phase is Phase.RUNNING]

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
        sequence.turn = self._turn
        ledger, target, source = self.seats.ledger, placement.seq_id, placement.source
        if ledger is not None:
            if source is not None and source != target:
                ledger.share(source, target, num_computed)
            else:
                ledger.cut(target, num_computed)
        self.seats.take(placement)

    def restoring(self, sequence: Sequence, seq_id: int, length: int, now: float) -> None:
        """So many tokens are on their way to an id; the cells that they will take are taken."""
        self.waiting.remove(sequence)
        sequence.restore(seq_id, now)
        sequence.turn = self._turn
        if self.seats.ledger is not None:
            self.seats.ledger.cut(seq_id, 0)
            self.seats.ledger.grow(seq_id, length)
        self.seats.take(Placement(sequence, seq_id))

    def restored(self, sequence: Sequence, length: int, now: float) -> None:
        """So many of them came."""
        assert sequence.seq_id is not None
        sequence.run(length, now)
        if self.seats.ledger is not None:
            self.seats.ledger.cut(sequence.seq_id, 0)  # a second try may bring more than the first
            self.seats.ledger.grow(sequence.seq_id, length)

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
        groups: dict[tuple[Adapters, bool], list[Sequence]] = {}
        for one in self.running:
            if one.num_remaining:
                groups.setdefault(self._group(one), []).append(one)
        if not groups:
            return Step()
        # Whose last turn is the longest ago; who has just come has not waited yet.
        group = min(groups.values(), key=lambda members: min(one.turn for one in members))
        self._turn += 1
        for one in group:
            one.turn = self._turn
        few = [one for one in group if self._is_decoding(one)]
        prompts = [one for one in group if not self._is_decoding(one)]
        budget = self._budget(len(few), len(groups))
        rows = self._decode_rows(few, budget // 2 if prompts else budget, len(prompts))
        rows += self._prefill_rows(prompts, rows, budget)
        rows.sort(key=lambda row: row.sequence.seq_id or 0)
        is_prefill_only = bool(rows) and len(prompts) == len(rows)
        return Step(tuple(rows), group[0].adapters, is_prefill_only)

    def _group(self, sequence: Sequence) -> tuple[Adapters, bool]:
        """Those who may share a decode call: of one set of adapters.

        In deterministic mode prompts and single tokens never do: llama.cpp would cut a prompt's
        chunk in two beside other rows, and every other cut gives other last bits.
        """
        return sequence.adapters, self.limits.is_deterministic and self._is_decoding(sequence)

    def _budget(self, rows: int, turns: int) -> int:
        """Tokens for the next step besides one each for `rows`, when so many groups take turns."""
        promised = sum(
            one.clock.first_token is not None for one in self.running if one.num_remaining
        )
        return self.costs.prefill_budget(promised, self._largest_chunk, rows, turns)

    def _is_decoding(self, sequence: Sequence) -> bool:
        if self.limits.is_deterministic:
            return sequence.num_computed >= sequence.num_prompt - 1
        return sequence.num_remaining <= FEW_TOKENS and not sequence.awaits_scores

    def _decode_rows(
        self, sequences: list[Sequence], budget: int, num_prompts: int
    ) -> list[StepRow]:
        """All that are a few tokens behind: every one at least one token, whatever is forced."""
        left = max(0, min(budget, self.limits.batch_size - len(sequences) - num_prompts))
        most = 1 if self.limits.is_deterministic else self._largest_chunk
        rows = []
        for one in sequences:
            extra = min(self._until_cut(one, most) - 1, left)
            left -= extra
            rows.append(StepRow(one, 1 + extra))
        return rows

    def _prefill_rows(
        self, prompts: list[Sequence], decoding: list[StepRow], budget: int
    ) -> list[StepRow]:
        if not prompts:
            return []
        if self.limits.is_deterministic:
            first = min(prompts, key=lambda one: one.order)
            return [StepRow(first, self._to_grid(first, self.limits.batch_size))]
        taken = sum(row.count for row in decoding)
        budget = min(budget - (taken - len(decoding)), self.limits.batch_size - taken)
        if not decoding and len(prompts) == 1:
            bought = max(1, int(budget / self._price(prompts[0])))
            return [StepRow(prompts[0], self._to_grid(prompts[0], bought))]
        return self._shared_out(prompts, budget)

    def _shared_out(self, prompts: list[Sequence], budget: int) -> list[StepRow]:
        """Half for who came first, the rest for who was served least, then next least."""
        first = min(prompts, key=lambda one: one.order)
        counts: dict[Sequence, int] = {}
        left = float(budget)
        if budget > 0:
            left -= self._grant(first, max(1, budget // 2), counts)
        for one in sorted(prompts, key=self._attained):
            left -= self._grant(one, left, counts)
        return [StepRow(one, count) for one, count in counts.items()]

    def _grant(self, one: Sequence, budget: float, counts: dict[Sequence, int]) -> float:
        """Add to the counts what a budget buys for one of them; returns what that costs.

        Whoever is the first gets a token in any case.
        """
        has, price = counts.get(one, 0), self._price(one)
        more = max(0 if counts else 1, int(budget / price))
        if one.scores_next:
            scored = sum(count for other, count in counts.items() if other.scores_next)
            more = min(more, self.limits.most_scored - scored)
        more = self._until_cut(one, has + max(0, more)) - has
        if more > 0:
            counts[one] = has + more
        return max(0, more) * price

    def _price(self, sequence: Sequence) -> float:
        """What its next token costs, in tokens of prefill."""
        return self.costs.price() if sequence.scores_next else 1.0

    def _attained(self, sequence: Sequence) -> tuple[float, int, int]:
        served = self.tenants.served(sequence.request.tenant)
        return served, sequence.num_computed - sequence.num_live, sequence.order

    def _until_cut(self, sequence: Sequence, most: int) -> int:
        """`most`, but no further than the sequence goes or where its chunk has to end."""
        count = min(most, sequence.num_remaining)
        if sequence.must_end_at is not None and sequence.must_end_at > sequence.num_computed:
            count = min(count, sequence.must_end_at - sequence.num_computed)
        if sequence.awaits_scores and not sequence.scores_next:  # what was told is not told again
            count = min(count, sequence.num_scored - 1 - sequence.num_computed)
        return count

    def _to_grid(self, sequence: Sequence, most: int) -> int:
        """The chunk ends where the absolute grid does, so that cold and warm are cut alike."""
        size = self.limits.batch_size
        if sequence.is_scored and (self.limits.is_deterministic or sequence.scores_next):
            size = min(size, self.limits.most_scored)
        to_line = size - sequence.num_computed % size
        count = self._until_cut(sequence, min(most, to_line))
        if self.limits.is_deterministic:  # a prompt's last token is a row like a decoded one
            count = min(count, max(1, sequence.num_prompt - 1 - sequence.num_computed))
        return count

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
        self._largest_chunk = min(self.limits.batch_size, 2 * self._largest_chunk)

    def shrink(self, step: Step) -> bool:
        """The step was too large or too slow: the next one will be smaller. False: it cannot be.

        In deterministic mode it stays as it is, and is tried so many times as halving it would.
        """
        largest = min(self._largest_chunk, max((row.count for row in step.rows), default=0))
        if largest <= 1:
            return False
        self._largest_chunk = max(1, largest // 2)
        return True

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
