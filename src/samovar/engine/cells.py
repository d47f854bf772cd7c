"""How many cells of a shared pool are in use, when prefixes are shared between sequences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Run:
    """Neighbouring cells that the same sequences see."""

    length: int
    holders: int = 1


class CellLedger:
    """Counts cells as llama.cpp does: a cell is in use while any sequence sees it.

    Every sequence is a list of runs; a copy shares those of its source, and whoever grows does so
    in a run of its own.
    """

    def __init__(self, num_cells: int, num_sequences: int) -> None:
        self.num_cells = num_cells
        self.num_used = 0
        self._runs: list[list[_Run]] = [[] for _ in range(num_sequences)]

    @property
    def num_free(self) -> int:
        """Cells that nobody uses."""
        return self.num_cells - self.num_used

    def length(self, seq_id: int) -> int:
        """Cells that a sequence sees."""
        return sum(run.length for run in self._runs[seq_id])

    def own(self, seq_id: int) -> int:
        """Cells that would be free without this sequence."""
        return sum(run.length for run in self._runs[seq_id] if run.holders == 1)

    def grow(self, seq_id: int, count: int) -> None:
        """The sequence got `count` new cells."""
        if not count:
            return
        runs = self._runs[seq_id]
        if runs and runs[-1].holders == 1:
            runs[-1].length += count
        else:
            runs.append(_Run(count))
        self.num_used += count

    def cut(self, seq_id: int, length: int) -> None:
        """The sequence keeps its first `length` cells."""
        runs = self._runs[seq_id]
        excess = sum(run.length for run in runs) - length
        while excess > 0:
            last = runs.pop()
            self._release(last)
            if last.length > excess:  # some of it stays: a shared run is split
                self._split(runs, last, last.length - excess)
            excess -= last.length

    def share(self, source: int, target: int, length: int) -> None:
        """The target sees the first `length` cells of the source, and nothing else."""
        self.cut(target, 0)
        copied: list[_Run] = []
        left = length
        for whole in list(self._runs[source]):
            if not left:
                break
            run = self._halve(whole, left) if whole.length > left else whole
            run.holders += 1
            copied.append(run)
            left -= run.length
        self._runs[target] = copied

    def _release(self, run: _Run) -> None:
        run.holders -= 1
        if not run.holders:
            self.num_used -= run.length

    def _split(self, runs: list[_Run], run: _Run, kept: int) -> None:
        """After `run` was released: take its first `kept` cells back."""
        if run.holders:
            first = self._halve(run, kept)
            first.holders += 1
            runs.append(first)
        else:
            runs.append(_Run(kept))
            self.num_used += kept

    def _halve(self, run: _Run, length: int) -> _Run:
        """Make two runs of one, for everyone who sees it; returns the first."""
        first = _Run(length, run.holders)
        for runs in self._runs:
            for at, one in enumerate(runs):
                if one is run:
                    runs.insert(at, first)
                    break
        run.length -= length
        return first
