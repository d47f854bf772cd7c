"""The cells of a context and the record of what is in them.

Position i of a sequence's cells holds token i of its record, after every call here, whether it
succeeded, was interrupted or failed: a sequence is as it was, or empty. Logits are part of the
record: which sequence's next token they belong to, and where they are.
"""

from __future__ import annotations

from collections.abc import Sequence as List

import numpy as np

from samovar.errors import InvalidRequest, NoLogits, OperationUnsupported, StateRejected
from samovar.native import checks, recurrent
from samovar.native.blob import PARTIAL
from samovar.native.context import Context
from samovar.native.interface import Aborted, Decoded, NoRoom, Row
from samovar.native.sequences import Sequence, Sequences


class Cells:
    """Computes rows into the cells of a context, cuts them and copies them."""

    def __init__(self, context: Context) -> None:
        self.sequences = Sequences(context.num_sequences)
        self._context = context
        self._model = context.model
        self._vocabulary_size = context.model.vocabulary.size

    # ---- checks -------------------------------------------------------------------------------

    def check_rows(self, rows: List[Row]) -> int:
        """Check rows; returns how many tokens they have together."""
        if not self._context.has_memory:
            raise OperationUnsupported("this model is an encoder: it embeds and cannot generate")
        length = self._context.context_length
        return checks.check_rows(rows, self.sequences, self._vocabulary_size, length)

    def require_room(self, held: int, count: int, seq_id: int) -> None:
        """Raise ContextOverflow unless `count` more tokens fit into the sequence."""
        checks.check_room(held, count, seq_id, self._context.context_length)

    # ---- computing ----------------------------------------------------------------------------

    def compute(self, rows: List[Row], adapters: bytes) -> Decoded | NoRoom | Aborted:
        """Run rows that are checked in one decode call, under adapters of this digest."""
        self._keep_logits({row.seq_id for row in rows})
        logits_rows = self._fill_batch(rows)
        try:
            outcome = self._context.decode(self._context.batch)
            if isinstance(outcome, Decoded):
                self._record(rows, logits_rows, adapters)
        except BaseException:  # a signal's, too: some or all may have been computed by then
            if self._context.handle.is_open:
                self._take_back(rows)
            raise
        if isinstance(outcome, Aborted):
            return Aborted(outcome.timed_out, lost=self._take_back(rows))
        return outcome

    def _record(self, rows: List[Row], logits_rows: dict[int, int], adapters: bytes) -> None:
        for row in rows:
            self.sequences.all[row.seq_id].extend(row.tokens, adapters)
        self.sequences.set_rows(logits_rows)

    def _fill_batch(self, rows: List[Row]) -> dict[int, int]:
        """Write the rows; returns which of the batch has the logits of which sequence."""
        batch = self._context.batch
        batch.clear()
        logits_rows: dict[int, int] = {}
        for row in rows:
            seq_id, tokens = row.seq_id, row.tokens
            position = len(self.sequences.all[seq_id].tokens)
            wants = row.wants_logits or row.sampler is not None or bool(row.following)
            if len(tokens) == 1 and wants:
                last = batch.add_one(seq_id, tokens[0], position)
            else:
                last = batch.add(
                    seq_id,
                    tokens,
                    position,
                    wants_logits=wants,
                    wants_each=row.wants_each or bool(row.following),
                )
            if wants:
                logits_rows[seq_id] = last
        return logits_rows

    def _take_back(self, rows: List[Row]) -> tuple[int, ...]:
        """After an interrupted call: cut each row's cells back to what is recorded of them.

        Sequences where that cannot be done are wiped; returns those that had something to lose.
        """
        for row in rows:
            self.sequences[row.seq_id].row = None  # the call had begun to overwrite it
        if len(rows) > 1 and (self._model.is_recurrent or self._model.is_hybrid):
            # llama.cpp gathers the recurrent states of the rows in neighbouring cells and moves
            # others out of their way, layer by layer: cut short, any of them may be torn.
            return tuple(filter(self._lose, range(self._context.num_sequences)))
        kept = {row.seq_id: len(self.sequences[row.seq_id].tokens) for row in rows}
        return tuple(s for s, held in kept.items() if not self._truncate(s, held) and self._lose(s))

    def _lose(self, seq_id: int) -> bool:
        """Empty a sequence whose cells cannot be trusted. False when there was nothing to lose."""
        held = len(self.sequences[seq_id].tokens)
        self._empty(seq_id)
        return held > 0

    def _truncate(self, seq_id: int, length: int) -> bool:
        """Make the cells end before `length`. False when llama.cpp cannot, or lost some of them."""
        context = self._context
        if length == 0:
            return context.remove(seq_id, -1)
        if context.last_position(seq_id) >= length:
            context.remove(seq_id, length)
        return context.last_position(seq_id) == length - 1 and self._window_reaches(seq_id, length)

    # ---- logits -------------------------------------------------------------------------------

    def logits(self, sequence: Sequence) -> np.ndarray:
        """What follows the sequence's last token; a view that the next decode call overwrites."""
        if sequence.row is not None:
            return self._context.logits(sequence.row)
        if sequence.saved is None:
            raise NoLogits("the logits of this sequence are gone")
        return sequence.saved

    def set_logits(self, seq_id: int, logits: np.ndarray) -> None:
        """See Backend. A copy is kept."""
        if len(logits) != self._vocabulary_size or not np.isfinite(logits.max()):
            raise StateRejected("saved logits are of another vocabulary, or no numbers")
        sequence = self.sequences[seq_id]
        sequence.row, sequence.saved = None, np.array(logits, np.float32)

    def forget_logits(self) -> None:
        """No sequence's next token is known any more."""
        for sequence in self.sequences:
            sequence.forget_logits()

    def _keep_logits(self, stepping: set[int]) -> None:
        """Copy the logits of sequences that sit this batch out: it will overwrite them."""
        for sequence in self.sequences.logits_owners(besides=stepping):
            sequence.saved = self.logits(sequence).copy()
            sequence.row = None

    # ---- cutting ------------------------------------------------------------------------------

    def remove(self, seq_id: int, start: int = 0) -> bool:
        """Remove positions from `start` on. False: refused, and nothing changed."""
        sequence = self.sequences[seq_id]
        held = len(sequence.tokens)
        if not 0 <= start <= held:
            raise InvalidRequest(f"cannot remove from position {start} of a sequence of {held}")
        if start == held:
            return True
        if start and not (
            self._window_reaches(seq_id, start) and self._context.remove(seq_id, start)
        ):
            return False
        if not start:
            self._empty(seq_id)
            return True
        sequence.truncate(start)
        return True

    def _empty(self, seq_id: int) -> None:
        """Remove all of a sequence, and what would outlive that (see recurrent)."""
        blank = self._blank_state(seq_id) if self._is_spoilt(seq_id) else None
        self._context.remove(seq_id, -1)
        self.sequences[seq_id].reset()
        if blank is not None:
            self._write_over_free_states(blank)

    def _is_spoilt(self, seq_id: int) -> bool:
        """Whether a recurrent state has become one of no numbers: its logits tell."""
        sequence = self.sequences[seq_id]
        if not sequence.has_logits or not (self._model.is_recurrent or self._model.is_hybrid):
            return False
        return not np.isfinite(self.logits(sequence).max())

    def _blank_state(self, seq_id: int) -> np.ndarray | None:
        blob = np.empty(self._context.state_size(seq_id, PARTIAL), np.uint8)
        self._context.read_state(seq_id, blob, PARTIAL)
        return recurrent.cleared(blob)

    def _write_over_free_states(self, blank: np.ndarray) -> None:
        """There is a cell per sequence, so that all free cells are theirs for a moment."""
        free = [s for s in range(self._context.num_sequences) if not self.sequences[s].tokens]
        for seq_id in free:
            self._context.write_state(seq_id, blank, PARTIAL)
        for seq_id in free:
            self._context.remove(seq_id, -1)

    def _window_reaches(self, seq_id: int, length: int) -> bool:
        """Whether every cell that the token at `length` will look at is still there."""
        if not self._model.window:
            return True
        return self._context.first_position(seq_id) <= self._model.horizon(length)
