"""Carries placements out: brings the cells of an admitted sequence to where it sits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from samovar.engine.scheduler import Scheduler
from samovar.engine.seats import Placement
from samovar.engine.sequence import Adapters
from samovar.errors import SamovarError
from samovar.native.interface import Adapter, Backend, StateKind


class Placing:
    """Keeps the cells of the context in step with the seats.

    What cannot be kept or copied is computed again: nothing here is a request's failure.
    """

    def __init__(
        self, backend: Backend, scheduler: Scheduler, adapters: Mapping[str, Adapter]
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._adapters = adapters
        self._applied: Adapters = ()

    def carry_out(self, placement: Placement, now: float) -> None:
        """Make the cells as the placement says, and seat its sequence."""
        self.empty()
        source, target = placement.source, placement.seq_id
        if source is None:
            self._backend.seq_rm(target)
            length = 0
        elif source == target:
            length = self._keep(target, placement.length)
        else:
            length = self._copy(placement, source)
        self._scheduler.place(placement, length, now)

    def empty(self) -> None:
        """Remove the cells that were given up."""
        emptied = self._scheduler.seats.emptied
        while emptied:
            self._backend.seq_rm(emptied.pop())

    def apply_adapters(self, adapters: Adapters) -> None:
        """Compute under this set from now on."""
        if adapters != self._applied:
            self._backend.apply_adapters([(self._adapters[n], scale) for n, scale in adapters])
            self._applied = adapters

    @contextmanager
    def under(self, adapters: Adapters) -> Iterator[None]:
        """Have this set applied for a while, in the midst of a step of another one perhaps."""
        before = self._applied
        self.apply_adapters(adapters)
        try:
            yield
        finally:
            self.apply_adapters(before)

    def forget_adapter(self, name: str) -> None:
        """The adapter is about to be unloaded: what was computed under it is of no use."""
        seats = self._scheduler.seats
        for seat in seats.idle():
            if any(name == used for used, _ in seat.adapters):
                seats.empty(seat)
        self.empty()
        if any(name == used for used, _ in self._applied):
            self.apply_adapters(())

    def _keep(self, seq_id: int, length: int) -> int:
        if self._backend.seq_rm(seq_id, length):
            return length
        self._backend.seq_rm(seq_id)
        return 0

    def _copy(self, placement: Placement, source: int) -> int:
        backend, target, length = self._backend, placement.seq_id, placement.length
        backend.seq_rm(target)
        self.apply_adapters(placement.sequence.adapters)  # cells leave only under their own set
        try:
            if backend.num_cells is None and backend.state_kind is StateKind.DIVISIBLE:
                ranges = backend.export_ranges(source, [(0, length)])
                backend.import_ranges(target, placement.sequence.tokens[:length], ranges)
                return length
            backend.seq_cp(source, target)
        except SamovarError:
            backend.seq_rm(target)
            return 0
        return self._keep(target, length)
