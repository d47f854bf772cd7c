"""Checks guesses against what the model would say, behind a sequence that is just computed."""

from __future__ import annotations

from dataclasses import dataclass

from samovar.engine.sequence import Sequence
from samovar.errors import SamovarError
from samovar.native.interface import Backend
from samovar.types import SamplingParams


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many guesses were right, and the model's own next token."""

    accepted: int
    next_token: int


class Verifying:
    """Computes candidates behind a sequence, looks, and takes them back."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def verify(self, sequence: Sequence, candidates: tuple[int, ...]) -> Verdict:
        """Compare candidates with the greedy continuation.

        Afterwards the cells of the sequence are as before, or it has none (`num_computed` says
        which). Raises what a decode call does.
        """
        assert sequence.seq_id is not None
        greedy = self._backend.new_sampler(SamplingParams())
        try:
            picks = [self._backend.sample(sequence.seq_id, greedy).token]
            self._compare(sequence.seq_id, candidates, picks)
        finally:
            greedy.close()
            self._take_back(sequence)
        return Verdict(len(picks) - 1, picks[-1])

    def _compare(self, seq_id: int, candidates: tuple[int, ...], picks: list[int]) -> None:
        """Lengthen `picks` by one for every candidate that is the pick before it."""
        size = self._backend.batch_size
        for start in range(0, len(candidates), size):
            piece = candidates[start : start + size]
            if piece[0] != picks[-1]:
                return
            for at, pick in enumerate(self._backend.argmaxes(seq_id, piece)):
                picks.append(pick)
                if at + 1 < len(piece) and piece[at + 1] != pick:
                    return

    def _take_back(self, sequence: Sequence) -> None:
        assert sequence.seq_id is not None
        try:
            held = len(self._backend.tokens(sequence.seq_id))
            if held < sequence.num_computed or not self._backend.seq_rm(
                sequence.seq_id, sequence.num_computed
            ):
                self._backend.seq_rm(sequence.seq_id)
                sequence.lose_cells()
        except SamovarError:  # a closed backend: there is nothing left to take back from
            sequence.lose_cells()
