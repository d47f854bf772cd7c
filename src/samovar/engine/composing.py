"""What one step computes of the sequences that run. Pure: no clock, no native call, no text.

Decoding sequences come first, one token each (or a few that a grammar forces); prefill gets what
the latency promise leaves, half of it the sequence that was admitted first, so that it gets on,
and half the one that was served least, so that a short prompt does not wait for a long one. When
nobody decodes, prompts go in full chunks of the fixed grid. Sequences under different adapters
take turns.
"""

from __future__ import annotations

from collections.abc import Sequence as List
from dataclasses import dataclass

from samovar.engine.fairness import Tenants
from samovar.engine.latency import StepCosts
from samovar.engine.sequence import Adapters, Sequence
from samovar.engine.step import Step, StepRow

FEW_TOKENS = 16  # not worth a chunk of their own, and what a grammar forces is rarely longer


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step and the context can hold."""

    batch_size: int
    context_length: int
    """Tokens of one sequence."""
    is_deterministic: bool = False
    most_scored: int = 256
    """Tokens of a step that have logits of their own, because log-probabilities are wanted."""


class Composing:
    """Makes the steps of one engine."""

    def __init__(self, limits: Limits, costs: StepCosts, tenants: Tenants) -> None:
        self._limits = limits
        self._costs = costs
        self._tenants = tenants
        self._largest_chunk = limits.batch_size
        self.turn = 0
        """Goes up with every step that is made."""

    def grow(self) -> None:
        """A step went well."""
        self._largest_chunk = min(self._limits.batch_size, 2 * self._largest_chunk)

    def shrink(self, step: Step) -> bool:
        """One was too large or too slow. False: it cannot be made smaller.

        In deterministic mode it stays as it is, and is tried so many times as halving it would.
        """
        largest = min(self._largest_chunk, max((row.count for row in step.rows), default=0))
        if largest <= 1:
            return False
        self._largest_chunk = max(1, largest // 2)
        return True

    def compose(self, running: List[Sequence]) -> Step:
        """What to compute next of those that run. Empty when nothing is to be done."""
        groups: dict[tuple[Adapters, bool], list[Sequence]] = {}
        promised = 0  # sequences that wait for their next token
        for one in running:
            if one.num_remaining:
                groups.setdefault(self._group(one), []).append(one)
                promised += one.clock.first_token is not None
        if not groups:
            return Step()
        # Whose last turn is the longest ago; who has just come has not waited yet.
        group = min(groups.values(), key=lambda members: min([one.turn for one in members]))
        self.turn += 1
        few: list[Sequence] = []
        prompts: list[Sequence] = []
        for one in group:
            one.turn = self.turn
            (few if self._is_decoding(one) else prompts).append(one)
        budget = self._costs.prefill_budget(promised, self._largest_chunk, len(few), len(groups))
        rows = self._decode_rows(few, budget // 2 if prompts else budget, len(prompts))
        if prompts:
            rows += self._prefill_rows(prompts, rows, budget)
            rows.sort(key=lambda row: row.sequence.seq_id or 0)
        return Step(tuple(rows), group[0].adapters)

    def _group(self, sequence: Sequence) -> tuple[Adapters, bool]:
        """Those who may share a decode call: of one set of adapters.

        In deterministic mode prompts and single tokens never do: llama.cpp would cut a prompt's
        chunk in two beside other rows, and every other cut gives other last bits.
        """
        return sequence.adapters, self._limits.is_deterministic and self._is_decoding(sequence)

    def _is_decoding(self, sequence: Sequence) -> bool:
        if self._limits.is_deterministic:
            return sequence.num_computed >= sequence.num_prompt - 1
        return sequence.num_remaining <= FEW_TOKENS and not sequence.awaits_scores

    def _decode_rows(
        self, sequences: list[Sequence], budget: int, num_prompts: int
    ) -> list[StepRow]:
        """All that are a few tokens behind: every one at least one token, whatever is forced."""
        left = max(0, min(budget, self._limits.batch_size - len(sequences) - num_prompts))
        most = 1 if self._limits.is_deterministic else self._largest_chunk
        rows = []
        for one in sequences:
            extra = 0
            if one.num_remaining > 1:
                extra = min(self._until_cut(one, most) - 1, left)
                left -= extra
            rows.append(StepRow(one, 1 + extra))
        return rows

    def _prefill_rows(
        self, prompts: list[Sequence], decoding: list[StepRow], budget: int
    ) -> list[StepRow]:
        if self._limits.is_deterministic:
            first = min(prompts, key=lambda one: one.order)
            return [StepRow(first, self._to_grid(first, self._limits.batch_size))]
        taken = sum(row.count for row in decoding)
        budget = min(budget - (taken - len(decoding)), self._limits.batch_size - taken)
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
            more = min(more, self._limits.most_scored - scored)
        more = self._until_cut(one, has + max(0, more)) - has
        if more > 0:
            counts[one] = has + more
        return max(0, more) * price

    def _price(self, sequence: Sequence) -> float:
        """What its next token costs, in tokens of prefill."""
        return self._costs.price() if sequence.scores_next else 1.0

    def _attained(self, sequence: Sequence) -> tuple[float, int, int]:
        served = self._tenants.served(sequence.request.tenant)
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
        size = self._limits.batch_size
        if sequence.is_scored and (self._limits.is_deterministic or sequence.scores_next):
            size = min(size, self._limits.most_scored)
        to_line = size - sequence.num_computed % size
        count = self._until_cut(sequence, min(most, to_line))
        if self._limits.is_deterministic:  # a prompt's last token is a row like a decoded one
            count = min(count, max(1, sequence.num_prompt - 1 - sequence.num_computed))
        return count
