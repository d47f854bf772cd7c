"""Offers what sequences have computed to the cache, at the moments that were asked for.

A sequence is saved from where the cache knows it: what others have computed before is not taken
out of the cells again. llama.cpp hands out the whole of a lane at once, so that a save costs a copy
of all its cells; a sequence that goes on generating is therefore saved the more rarely the longer
it is, and all its saves together cost a few copies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise

from samovar.cache.block import ROWS, STATE, Block, Place, make_block
from samovar.cache.index.node import Node
from samovar.cache.keys import ROOT, TOKEN_BYTES, block_key, pack_tokens
from samovar.cache.store import Scope
from samovar.config import SaveMoment
from samovar.engine.latency import StepCosts
from samovar.engine.placing import Placing
from samovar.engine.scheduler import Scheduler
from samovar.engine.scopes import Cache, Scopes
from samovar.engine.sequence import Phase, Sequence
from samovar.errors import SamovarError
from samovar.native.interface import Backend, Range, StateKind

logger = logging.getLogger(__name__)

_LEAST_GROWTH = 8  # a sequence that generates has grown by an eighth before it is saved again


class Saving:
    """Saves the sequences of one engine."""

    def __init__(
        self,
        backend: Backend,
        placing: Placing,
        scheduler: Scheduler,
        cache: Cache,
        scopes: Scopes,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._placing = placing
        self._store, self._config = cache.store, cache.config
        self._scopes = scopes
        self._now = clock
        self._kind = backend.state_kind
        self._needs_state = self._kind is not StateKind.DIVISIBLE

    @property
    def _costs(self) -> StepCosts:
        return self._scheduler.costs

    def save(self, sequence: Sequence, moment: SaveMoment) -> None:
        """Offer everything that is computed. Call it before the cells are given up."""
        if moment not in self._config.save_moments or not sequence.request.is_stored:
            return
        length = self._savable(sequence)
        if length < max(1, self._config.min_tokens) or length <= sequence.num_saved:
            return
        started = self._now()
        try:
            with self._placing.under(sequence.adapters):
                saved = self._offer(sequence, length)
        except SamovarError as error:  # what cannot be taken out of the cells is not saved
            logger.warning("a sequence could not be saved: %s", error)
            self._store.counters.dropped_blocks["export"] += 1
            return
        finally:
            self._store.counters.save_seconds += self._now() - started
        if saved:
            self._store.counters.saved_blocks[moment] += saved

    def after_step(self, sequence: Sequence) -> None:
        """A step has computed more of it."""
        if sequence.phase is not Phase.RUNNING:
            return
        computed, grown = sequence.num_computed, sequence.num_computed - sequence.num_saved
        if computed < sequence.num_prompt:
            is_due = grown >= self._config.checkpoint_tokens or computed in (
                sequence.branches_at,
                self._last_whole(sequence),
            )
            if self._needs_state and is_due:
                self.save(sequence, "cold")
        elif computed == sequence.num_prompt:
            self.save(sequence, "cold")
        elif grown >= max(self._config.continued_tokens, computed // _LEAST_GROWTH):
            self.save(sequence, "continued")

    # ---- helpers ------------------------------------------------------------------------------

    def _savable(self, sequence: Sequence) -> int:
        """How many of its tokens are in cells, computed as anyone else would compute them.

        Where every bit counts, only whole chunks of a prompt are.
        """
        if sequence.phase is not Phase.RUNNING:
            return 0
        grid = self._scheduler.seats.cuts.grid
        if grid == 1:
            return sequence.num_computed
        if sequence.is_scored:  # in pieces of its own
            return 0
        return min(sequence.num_computed // grid * grid, self._last_whole(sequence))

    def _last_whole(self, sequence: Sequence) -> int:
        """Where the whole chunks of a prompt end, where every bit counts; else its end."""
        grid = self._scheduler.seats.cuts.grid
        return sequence.num_prompt if grid == 1 else max(0, sequence.num_prompt - 1) // grid * grid

    def _offer(self, sequence: Sequence, length: int) -> int:
        """Offer the first tokens of a sequence; returns how many blocks were taken."""
        scope, tokens = self._scopes.of(sequence), sequence.tokens[:length]
        path = self._store.match(scope, tokens).path
        start = path[-1].end if path else 0
        # Where it left what another one had, others will leave it too: a block ends there.
        parting = sequence.num_live if start < sequence.num_live < length else start
        size = self._config.block_size
        bounds = _bounds(start, parting, size) + _bounds(parting, length, size)
        taken = 0
        blocks = self._blocks(sequence, scope, path, bounds)
        for block in blocks:
            if not self._store.offer(block, self._seconds(block)):
                return taken  # those behind it would hang on nothing
            taken += 1
            self._store.counters.saved_tokens += block.head.num_tokens
            self._store.counters.saved_bytes += block.nbytes
        if self._needs_state and length == sequence.num_computed:
            place = _place_of(blocks[-1]) if blocks else _place_in(path, scope, tokens)
            state = self._state(sequence, place)
            if state is not None and self._store.offer(state, self._seconds(state)):
                taken += 1
                self._store.counters.saved_bytes += state.nbytes
        sequence.num_saved = length
        return taken

    def _blocks(
        self,
        sequence: Sequence,
        scope: Scope,
        path: tuple[Node, ...],
        bounds: list[tuple[int, int]],
    ) -> list[Block]:
        if not bounds:
            return []
        parent = path[-1].key if path else ROOT
        packed = pack_tokens(sequence.tokens[: bounds[-1][1]])
        found = []
        for piece in self._ranges(sequence, bounds):
            ids = packed[piece.start * TOKEN_BYTES : piece.end * TOKEN_BYTES]
            place = Place(scope.digest, parent, piece.start, ids)
            is_last = piece.end == sequence.num_computed and not self._needs_state
            logits = self._logits(sequence) if is_last and self._config.keeps_logits else None
            found.append(make_block(ROWS, place, piece.payload, logits))
            parent = found[-1].head.key
        return found

    def _ranges(self, sequence: Sequence, bounds: list[tuple[int, int]]) -> list[Range]:
        assert sequence.seq_id is not None
        if self._kind is StateKind.INDIVISIBLE:  # its rows are only the chain that leads to states
            return [Range(start, end, memoryview(b"")) for start, end in bounds]
        return self._backend.export_ranges(sequence.seq_id, bounds)

    def _state(self, sequence: Sequence, rows: Place) -> Block | None:
        """What else there is to the state where these rows end; None: it is kept already."""
        assert sequence.seq_id is not None
        key = block_key(rows.namespace, rows.parent, rows.tokens)
        if self._store.index.get(key, STATE) is not None:
            return None
        tail = memoryview(self._backend.export_tail(sequence.seq_id))
        return make_block(STATE, rows, tail, self._logits(sequence))

    def _logits(self, sequence: Sequence) -> memoryview | None:
        assert sequence.seq_id is not None
        if not self._backend.has_logits(sequence.seq_id):
            return None
        return self._backend.logits(sequence.seq_id).data

    def _seconds(self, block: Block) -> float:
        """What it would take to compute it again; 0: not known yet."""
        head = block.head
        count = head.num_tokens if head.kind == ROWS else head.start + head.num_tokens
        return count * (self._costs.prefill_seconds or 0.0)


def _place_of(block: Block) -> Place:
    head = block.head
    return Place(head.namespace, head.parent, head.start, head.tokens)


def _place_in(path: tuple[Node, ...], scope: Scope, tokens: list[int]) -> Place:
    """Where the last block of a path is that ends where the tokens do."""
    last, parent = path[-1], path[-1].parent
    assert parent is not None  # only the root has none, and it is in no path
    return Place(scope.digest, parent.key, last.start, pack_tokens(tokens[last.start :]))


def _bounds(start: int, end: int, size: int) -> list[tuple[int, int]]:
    """Pieces of at most `size` tokens from `start` on; the last one may be shorter."""
    if start >= end:
        return []
    return list(pairwise([*range(start, end, size), end]))
