"""Which tokens each sequence holds and where its next logits are: one bookkeeping for all."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass, field

import numpy as np

from samovar.errors import InvalidRequest, NoLogits


@dataclass(slots=True)
class Sequence:
    """One sequence of a context. Position i of its KV holds `tokens[i]`.

    `row` is where its next-token logits lie in the last batch. Another batch overwrites them, so
    `saved` takes a copy before one that the sequence is not part of; both None: no logits.
    """

    tokens: list[int] = field(default_factory=list)
    row: int | None = None
    saved: np.ndarray | None = None
    adapters: bytes | None = None
    """Digest of the adapters under which the cells were computed; None: no cells yet."""
    mixed_from: int | None = None
    """Where cells computed under other adapters begin: such a state must not be saved."""
    revision: int = 0
    """Goes up with every change of `tokens`."""

    def forget_logits(self) -> None:
        """What follows the last token is no longer known."""
        self.row = self.saved = None

    @property
    def has_logits(self) -> bool:
        """Whether the next token can be sampled."""
        return self.row is not None or self.saved is not None

    def was_computed_under(self, adapters: bytes) -> bool:
        """Whether every cell was computed under these adapters."""
        return not self.tokens or (self.mixed_from is None and self.adapters == adapters)

    def extend(self, tokens: List[int], adapters: bytes) -> None:
        """These tokens were computed after the others; what follows them is not known yet."""
        if not self.tokens:
            self.adapters = adapters
        elif self.adapters != adapters and self.mixed_from is None:
            self.mixed_from = len(self.tokens)
        self.revision += 1
        self.tokens.extend(tokens)
        self.row = self.saved = None

    def truncate(self, length: int) -> None:
        """The tokens from `length` on are gone."""
        self.revision += 1
        if self.mixed_from is not None and length <= self.mixed_from:
            self.mixed_from = None
        del self.tokens[length:]
        self.forget_logits()

    def reset(self, tokens: list[int] | None = None, adapters: bytes | None = None) -> None:
        """The sequence now holds exactly `tokens`; nothing is known of what follows them."""
        self.tokens = tokens or []
        self.revision += 1
        self.adapters = adapters
        self.mixed_from = None
        self.forget_logits()


class Sequences:
    """All sequences of a context."""

    def __init__(self, count: int) -> None:
        self.all = [Sequence() for _ in range(count)]
        """By id, for ids that were checked."""
        self._in_batch: set[int] = set()

    def __getitem__(self, seq_id: int) -> Sequence:
        """The sequence; raises InvalidRequest for an id that the context does not have."""
        if not 0 <= seq_id < len(self.all):
            raise InvalidRequest(
                f"there is no sequence {seq_id}; this context has 0 to {len(self.all) - 1}"
            )
        return self.all[seq_id]

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self.all)

    @property
    def num_cells(self) -> int:
        """Tokens in all sequences together."""
        return sum(len(sequence.tokens) for sequence in self.all)

    def logits_owners(self, besides: Collection[int] = ()) -> list[Sequence]:
        """The sequences whose logits lie in the last batch, but for some."""
        others = self._in_batch.difference(besides)
        if not others:
            return []
        owners = [self.all[seq_id] for seq_id in others]
        return [sequence for sequence in owners if sequence.row is not None]

    def set_rows(self, rows: dict[int, int]) -> None:
        """A batch ran: these sequences have logits in it, and nobody else has."""
        for seq_id in self._in_batch:
            self.all[seq_id].row = None
        for seq_id, row in rows.items():
            sequence = self.all[seq_id]
            sequence.row, sequence.saved = row, None
        self._in_batch = set(rows)

    def require_logits(self, seq_id: int) -> Sequence:
        """The sequence, if its next token can be sampled; raises NoLogits otherwise."""
        sequence = self[seq_id]
        if sequence.row is None and sequence.saved is None:
            raise NoLogits(
                f"sequence {seq_id} has no logits for its next token; remove its last token"
                " (seq_rm_last) and prefill that again"
            )
        return sequence
