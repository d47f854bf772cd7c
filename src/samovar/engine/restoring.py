"""Brings cached blocks into the cells of admitted sequences, while the others go on.

A sequence that has blocks in the cache gets a seat and waits there (RESTORING) until they have
been read; those in memory are there at once. What does not come is computed: nothing here is a
request's failure.

Where a state is nothing but rows, those in files are read straight to where llama.cpp wants them (a
piece), and enter the cells from there before anybody makes blocks of them. One that turns out bad,
and everything else that leaves less than was planned, makes the piece worthless: the blocks that
are left are put together by the backend then, as those of other states are.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from samovar.cache.block import Block
from samovar.cache.index.node import Node, Tier
from samovar.cache.lease import Lease
from samovar.cache.store import BlockStore
from samovar.engine.placing import Placing
from samovar.engine.scheduler import Scheduler
from samovar.engine.scopes import Scopes
from samovar.engine.seats import Placement
from samovar.engine.sequence import Sequence
from samovar.errors import SamovarError, StateRejected
from samovar.native.interface import Backend, Piece, Range, StateKind

logger = logging.getLogger(__name__)

LEAST_GAIN = 32  # tokens: fewer are computed in less time than it takes to bring all of them
_MAX_REFUSED = 1024  # that are remembered
_TRIES = 3  # blocks may turn out bad; what is left may still be worth bringing


@dataclass(frozen=True, slots=True)
class Plan:
    """What can be brought for a sequence."""

    nodes: tuple[Node, ...] = ()
    """Rows from position 0 on, then the state, as the kind of the model wants them."""
    length: int = 0


@dataclass(slots=True, eq=False)
class _Pending:
    sequence: Sequence
    lease: Lease
    tries: int
    started: float
    piece: Piece | None = None
    """Where what is read from files belongs, of exactly the tokens of the lease."""


@dataclass(frozen=True, slots=True)
class _End:
    """Where what is brought ends."""

    key: bytes
    length: int
    logits: memoryview
    """Of what follows it; empty: not stored."""


class Restoring:
    """The sequences of one engine whose blocks are on their way."""

    def __init__(
        self,
        backend: Backend,
        placing: Placing,
        scheduler: Scheduler,
        store: BlockStore,
        scopes: Scopes,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._placing = placing
        self._store = store
        self._scopes = scopes
        self._now = clock
        self._kind = backend.state_kind
        self._pending: list[_Pending] = []
        self._expected: dict[Sequence, tuple[Node, ...]] = {}
        self._refused: OrderedDict[bytes, int] = OrderedDict()
        """How often what ends with a block of this key was brought and refused."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for blocks."""
        return not self._pending

    def plan(self, sequence: Sequence) -> Plan:
        """The most that the cache has of a sequence, and that is worth trying. No side effect."""
        plan = self._most_of(sequence)
        if plan.nodes and self._refused.get(plan.nodes[-1].key, 0) >= _TRIES:
            return Plan()
        return plan

    def _most_of(self, sequence: Sequence) -> Plan:
        scope, tokens = self._scopes.of(sequence), sequence.tokens
        needs_state = self._kind is not StateKind.DIVISIBLE
        match = self._store.match(scope, tokens, needs_state=needs_state)
        if not needs_state:
            return _of_rows(match.path, self._most(sequence), self._scheduler.seats.cuts.grid)
        for node in reversed(match.path):
            state = node.state
            if state is None or not state.tiers or node.end > self._most(sequence):
                continue
            if node.end < len(tokens) or state.logits_bytes:
                rows = match.path[: match.path.index(node) + 1]
                is_whole = self._kind is StateKind.INDIVISIBLE
                return Plan((state,) if is_whole else (*rows, state), node.end)
        return Plan()

    def expect(self, sequence: Sequence) -> None:
        """The sequence waits: nothing that it will want is to be evicted before it is admitted."""
        nodes = self.plan(sequence).nodes
        self._store.hold(nodes)
        self._expected[sequence] = nodes

    def begin(self, placement: Placement, plan: Plan) -> bool:
        """Bring the blocks of a plan instead of what the placement says. False: not worth it."""
        sequence = placement.sequence
        reach = min(plan.length, sequence.num_tokens - 1)
        is_worth_it = reach - placement.length >= LEAST_GAIN
        seq_id = self._scheduler.room_for(sequence) if is_worth_it else None
        if seq_id is None:
            self._let_go(sequence)
            return False
        now = self._now()
        piece = self._piece(sequence, seq_id, plan)
        lease = self._store.lease(self._scopes.of(sequence), plan.nodes, piece)
        self._let_go(sequence)
        self._placing.empty()
        self._backend.seq_rm(seq_id)
        self._scheduler.restoring(sequence, seq_id, plan.length, now)
        self._pending.append(_Pending(sequence, lease, _TRIES, now, piece))
        return True

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._let_go(sequence)
        for pending in [one for one in self._pending if one.sequence is sequence]:
            pending.lease.close()
            self._pending.remove(pending)

    def poll(self) -> Iterator[Sequence]:
        """Import what has come. Gives the sequences of which nothing is left to compute.

        One at a time: their logits are forgotten when the next one needs other adapters.
        """
        for pending in [one for one in self._pending if one.lease.is_complete]:
            if pending not in self._pending:
                continue  # another choice of its request has failed, and took it along
            self._pending.remove(pending)
            with pending.lease as lease:
                length = self._bring(pending)
            if not length and self._tries_again(pending):
                continue
            sequence, now = pending.sequence, self._now()
            self._scheduler.restored(sequence, length, now)
            self._store.counters.restore_seconds += now - pending.started
            if length:
                self._account(sequence, lease, length)
            if not sequence.num_remaining:
                yield sequence

    # ---- helpers ------------------------------------------------------------------------------

    def _note_refused(self, key: bytes) -> None:
        """It proved itself and llama.cpp wants it no more than before; or cells were short."""
        self._refused[key] = self._refused.get(key, 0) + 1
        if len(self._refused) > _MAX_REFUSED:
            self._refused.popitem(last=False)

    def _let_go(self, sequence: Sequence) -> None:
        self._store.let_go(self._expected.pop(sequence, ()))

    def _most(self, sequence: Sequence) -> int:
        """How much of a sequence may come out of the cache.

        Where every bit counts, what is left must be cut as if nothing had come.
        """
        cuts = self._scheduler.seats.cuts
        most = cuts.most(sequence)
        return min(most, sequence.num_prompt - 1) if cuts.grid > 1 else most

    def _tries_again(self, pending: _Pending) -> bool:
        """Something was bad, and is not in the index any more: see what is left."""
        plan = self.plan(pending.sequence)
        if pending.tries <= 1 or plan.length < LEAST_GAIN:
            return False
        lease = self._store.lease(self._scopes.of(pending.sequence), plan.nodes)
        self._pending.append(_Pending(pending.sequence, lease, pending.tries - 1, pending.started))
        return True

    def _piece(self, sequence: Sequence, seq_id: int, plan: Plan) -> Piece | None:
        """Room for a plan of which something is in files only, if its kind can be read apart."""
        is_in_memory = all(node.tiers & Tier.MEMORY.bit for node in plan.nodes)
        if is_in_memory or self._kind is not StateKind.DIVISIBLE:
            return None
        return self._backend.new_piece(seq_id, sequence.tokens[: plan.length])

    def _bring(self, pending: _Pending) -> int:
        """Import what came; returns how many tokens are in the cells now."""
        sequence, lease, piece = pending.sequence, pending.lease, pending.piece
        if piece is not None and self._is_as_planned(sequence, lease, piece):
            last = lease.blocks[-1]
            logits = memoryview(b"") if last is None else last.logits
            end = _End(lease.nodes[-1].key, len(piece.tokens), logits)
            return self._entered(sequence, end, partial(self._put_piece, lease, piece))
        blocks = self._usable(sequence, lease)
        if not blocks:
            return 0
        head = blocks[-1].head
        end = _End(head.key, head.start + head.num_tokens, blocks[-1].logits)
        return self._entered(sequence, end, partial(self._put_blocks, sequence, blocks))

    def _entered(self, sequence: Sequence, end: _End, put: Callable[[], None]) -> int:
        """How far the cells of a sequence reach once `put` has filled them; 0: it was refused."""
        assert sequence.seq_id is not None
        try:
            self._placing.apply_adapters(sequence.adapters)
            put()
            return self._with_logits(sequence, end.length, end.logits)
        except SamovarError as error:
            logger.warning("cached blocks were refused and are computed again: %s", error)
            self._store.counters.restore_failures += 1
            self._note_refused(end.key)
            self._backend.seq_rm(sequence.seq_id)
            return 0

    def _put_blocks(self, sequence: Sequence, blocks: list[Block]) -> None:
        assert sequence.seq_id is not None
        tail, end = b"", blocks[-1].head
        tokens = sequence.tokens[: end.start + end.num_tokens]
        if self._kind is not StateKind.DIVISIBLE:
            tail = bytes(blocks.pop().payload)
        ranges = [
            Range(one.head.start, one.head.start + one.head.num_tokens, one.payload)
            for one in blocks
        ]
        self._backend.import_ranges(sequence.seq_id, tokens, ranges, tail)

    def _put_piece(self, lease: Lease, piece: Piece) -> None:
        """What was read apart is at its place; what was in memory, or came as a block, is not."""
        for node, apart, block in zip(lease.nodes, lease.apart, lease.blocks, strict=True):
            if apart is None:
                assert block is not None
                _fill(piece.places(node.start, node.end), block.payload)
        self._backend.import_piece(piece)

    def _is_as_planned(self, sequence: Sequence, lease: Lease, piece: Piece) -> bool:
        """Whether all came that there is room for, for this seat, and may be used to its end."""
        is_whole = lease.is_whole and piece.seq_id == sequence.seq_id
        return is_whole and self._may_end(sequence, len(piece.tokens))

    def _may_end(self, sequence: Sequence, end: int) -> bool:
        return end <= self._most(sequence) and end % self._scheduler.seats.cuts.grid == 0

    def _usable(self, sequence: Sequence, lease: Lease) -> list[Block]:
        """What came of a lease, as far as it is good for anything without the rest."""
        blocks = list(lease.run())
        if self._kind is not StateKind.DIVISIBLE:
            return blocks if lease.is_whole else []
        while blocks:
            head = blocks[-1].head
            if self._may_end(sequence, head.start + head.num_tokens):
                break
            blocks.pop()
        return blocks

    def _with_logits(self, sequence: Sequence, length: int, logits: memoryview) -> int:
        """Where every token came, what follows the last one is stored, or it goes again."""
        assert sequence.seq_id is not None
        if length < sequence.num_tokens:
            return length
        if logits.nbytes:
            self._backend.set_logits(sequence.seq_id, np.frombuffer(logits, np.float32))
            return length
        if self._backend.seq_rm(sequence.seq_id, length - 1):
            return length - 1
        self._backend.seq_rm(sequence.seq_id)
        return 0

    def _account(self, sequence: Sequence, lease: Lease, length: int) -> None:
        """Say which tier each restored token came from."""
        counters, found = self._store.counters, dict[str, int]()
        counters.hits += 1
        for node, tier, head in zip(lease.nodes, lease.tiers, lease.heads, strict=True):
            if tier is None or head is None:
                break
            name, is_rows = tier.name.lower(), self._kind is not StateKind.INDIVISIBLE
            counters.restored_bytes[name] += head.nbytes
            if node.kind == "s" and is_rows:
                continue
            count = node.num_tokens if is_rows else node.end
            found[name] = found.get(name, 0) + min(count, length - sum(found.values()))
        counters.restored_tokens.update(found)
        sequence.num_saved = max(sequence.num_saved, length)
        if not sequence.num_preemptions:
            sequence.restored = found


def _fill(places: list[np.ndarray], payload: memoryview) -> None:
    """Copy the rows of a block to where they belong. Raises StateRejected for other sizes."""
    rows, done = np.frombuffer(payload, np.uint8), 0
    if sum(place.nbytes for place in places) != rows.nbytes:
        raise StateRejected("a block of KV rows has another size than this model's rows")
    for place in places:
        place[:] = rows[done : done + place.nbytes]
        done += place.nbytes


def _of_rows(path: tuple[Node, ...], most: int, grid: int) -> Plan:
    """The longest part of a path that does not reach beyond `most` and ends on the grid."""
    for count in range(len(path), 0, -1):
        end = path[count - 1].end
        if end <= most and end % grid == 0:
            return Plan(path[:count], end)
    return Plan()
