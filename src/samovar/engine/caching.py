"""Where the engine and the cache meet: what is restored for whom, and what is saved when.

    admit ──> begin ──> (blocks are read) ──> poll: cells are there
    step ──> after_step, save ──> blocks are offered

The cache knows bytes and the backend knows cells; only here do they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from samovar.cache.explain import reason
from samovar.config import SaveMoment
from samovar.engine.placing import Placing
from samovar.engine.restoring import Plan, Restoring
from samovar.engine.saving import Saving
from samovar.engine.scheduler import Scheduler
from samovar.engine.scopes import Cache, Scopes
from samovar.engine.seats import Placement
from samovar.engine.sequence import Sequence
from samovar.native.interface import Adapter, Backend, StateKind
from samovar.types import Divergence, DivergenceReason

_WAIT_SECONDS = 0.05  # at most, for blocks, when there is nothing to compute meanwhile


class Caching:
    """The cache of one engine, if it has one; without, everything here does nothing."""

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler,
        placing: Placing,
        adapters: Mapping[str, Adapter],
        clock: Callable[[], float],
        cache: Cache | None,
    ) -> None:
        self._cache = None if backend.state_kind is StateKind.NONE else cache
        self._scheduler = scheduler
        self._needs_state = backend.state_kind is not StateKind.DIVISIBLE
        if self._cache is not None:
            store = self._cache.store
            self._scopes = Scopes(store, adapters)
            self._restoring = Restoring(backend, placing, scheduler, store, self._scopes, clock)
            self._saving = Saving(backend, placing, scheduler, self._cache, self._scopes, clock)

    def expect(self, sequence: Sequence) -> None:
        """A sequence waits from now on."""
        if self._cache is not None and sequence.num_tokens >= self._cache.config.min_tokens:
            self._restoring.expect(sequence)

    def begin(self, placement: Placement) -> bool:
        """Bring blocks for a sequence that is admitted. False: it goes where the placement says."""
        sequence = placement.sequence
        if self._cache is None:
            self._note(sequence, placement.length, "off")
            return False
        if sequence.num_tokens < self._cache.config.min_tokens:
            self._note(sequence, placement.length, "short")
            return False
        if sequence.awaits_scores:
            self._note(sequence, placement.length, "scored")
        plan = self._restoring.plan(sequence)
        self._explain(sequence, placement, plan)
        if self._restoring.begin(placement, plan):
            return True
        if not (placement.length or sequence.num_preemptions or sequence.is_scored):
            self._cache.store.counters.misses += 1
        return False

    def poll(self) -> Iterator[Sequence]:
        """Take in what the cache has done; gives each sequence of which all cells have come."""
        if self._cache is not None:
            self._cache.store.poll()
            yield from self._restoring.poll()

    def wait(self) -> None:
        """Nothing can be computed: wait for blocks, if any are on their way."""
        if self._cache is not None and not self._restoring.is_idle:
            self._cache.store.wait(_WAIT_SECONDS)

    def after_step(self, sequence: Sequence) -> None:
        """A step has computed more of a sequence."""
        if self._cache is not None:
            self._saving.after_step(sequence)

    def save(self, sequence: Sequence, moment: SaveMoment) -> None:
        """Keep what is computed of a sequence, before its cells go."""
        if self._cache is not None:
            self._saving.save(sequence, moment)

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        if self._cache is not None:
            self._restoring.forget(sequence)

    # ---- why ----------------------------------------------------------------------------------

    def _explain(self, sequence: Sequence, placement: Placement, plan: Plan) -> None:
        if sequence.divergence is not None or self._cache is None:
            return
        reach = min(max(plan.length, placement.length), sequence.num_tokens - 1)
        if reach == sequence.num_tokens - 1:
            self._note(sequence, sequence.num_tokens, "none")
            return
        store, scope = self._cache.store, self._scopes.of(sequence)
        match = store.match(scope, sequence.tokens)
        if self._needs_state and match.length > plan.length:
            # The next one that comes here shall find more.
            grid = self._scheduler.seats.cuts.grid
            sequence.branches_at = min(match.length, sequence.num_tokens - 1) // grid * grid
            if sequence.must_end_at is None and sequence.branches_at > reach:
                sequence.must_end_at = sequence.branches_at
            self._note(sequence, reach, "no_checkpoint")
            return
        size = self._cache.config.block_size
        self._note(sequence, reach, reason(store, scope, sequence.tokens, match, size))

    @staticmethod
    def _note(sequence: Sequence, position: int, why: DivergenceReason) -> None:
        if sequence.divergence is None:
            sequence.divergence = Divergence(position, why)
