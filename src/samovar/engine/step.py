"""One step: what one decode call computes, and what each row is for."""

from __future__ import annotations

import msgspec

from samovar.engine.sequence import Adapters, Sequence


class StepRow(msgspec.Struct, frozen=True):
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


class Step:
    """Rows of one adapter set, ascending by sequence id: llama.cpp cuts other orders to pieces."""

    __slots__ = ("adapters", "num_decode_rows", "num_tokens", "rows")

    def __init__(self, rows: tuple[StepRow, ...] = (), adapters: Adapters = ()) -> None:
        counts = [row.count for row in rows]
        self.rows = rows
        self.adapters = adapters
        self.num_tokens = sum(counts)
        """Tokens that it computes."""
        self.num_decode_rows = counts.count(1)
        """Rows that cost what a decode row costs."""

    @property
    def is_decode_only(self) -> bool:
        """Whether every row is one token."""
        return self.num_decode_rows == len(self.rows)

    @property
    def is_due_again(self) -> bool:
        """Whether each of its sequences has one token more to compute, as when it was made."""
        for row in self.rows:
            one = row.sequence
            if len(one.tokens) - one.num_computed != 1:
                return False
        return True

    @property
    def num_scored_tokens(self) -> int:
        """Tokens of prompts that are computed for log-probabilities; not once it was computed."""
        if self.is_decode_only:
            return 0
        return sum(row.count for row in self.rows if row.count > 1 and row.sequence.scores_next)
