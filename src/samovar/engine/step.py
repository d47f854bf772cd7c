"""One step: what one decode call computes, and what each row is for."""

from __future__ import annotations

from dataclasses import dataclass

from samovar.engine.sequence import Adapters, Sequence


@dataclass(frozen=True, slots=True)
class StepRow:
    """The next `count` uncomputed tokens of a sequence."""

    sequence: Sequence
    count: int

    @property
    def tokens(self) -> list[int]:
        """The ids to compute."""
        start = self.sequence.num_computed
        return self.sequence.tokens[start : start + self.count]

    @property
    def following(self) -> list[int]:
        """The ids of the prompt whose log-probabilities come of these tokens."""
        one = self.sequence
        if not one.scores_next:
            return []
        start = one.num_computed + 1
        return one.tokens[start : min(start + self.count, one.num_prompt)]

    @property
    def catches_up(self) -> bool:
        """Whether nothing known is left behind it, so that a token can be picked."""
        return self.count == self.sequence.num_remaining


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of one adapter set, ascending by sequence id: llama.cpp cuts other orders to pieces."""

    rows: tuple[StepRow, ...] = ()
    adapters: Adapters = ()
    is_prefill_only: bool = False
    """Whether every row is a piece of a prompt."""

    @property
    def num_tokens(self) -> int:
        """Tokens that it computes."""
        return sum(row.count for row in self.rows)

    @property
    def num_scored_tokens(self) -> int:
        """Tokens of prompts that are computed for log-probabilities; not once it was computed."""
        return sum(row.count for row in self.rows if row.count > 1 and row.sequence.scores_next)

    @property
    def num_decode_rows(self) -> int:
        """Rows that cost what a decode row costs."""
        return sum(row.count == 1 for row in self.rows)
