"""The cache of one model: what an engine offers, finds again, and is told about it.

    offer ──> memory ──┐                        match ──> lease ──> blocks, from the fastest tier
                       └─> write queue ──> shm, disk        └─ what is read is kept in memory too

One thread owns a store; it never touches a file itself (`transfer` does). Nothing here raises for
what happens to files: what cannot be read is a miss, what cannot be written is not saved, and both
are counted.
"""

from __future__ import annotations

import gc
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from samovar.cache.block import STATE, Block
from samovar.cache.files.outcomes import DiskRefused
from samovar.cache.files.tier import FileTier
from samovar.cache.filing import Filing, name_of_node, on_disk
from samovar.cache.index.index import Match
from samovar.cache.index.node import About, Node, Tier
from samovar.cache.keys import Adapters, Key, Namespace
from samovar.cache.lease import Lease, Rows
from samovar.cache.machine.pressure import NO_ADVICE, Pressure, Sample
from samovar.cache.machine.wear import Wear
from samovar.cache.memory import MemoryTier
from samovar.cache.records import Records
from samovar.cache.transfer import Found, Read, ReadApart, ReadDone, Transfer, WriteDone

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_MAX_SCOPES = 1024  # sets of adapters and salts that are remembered
_USAGE_SECONDS = 600.0  # between two savings of what was used; also at the end
_CLOSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Budgets:
    """How much of what there may be. The file tiers know their own budgets."""

    memory: int
    """Bytes of the memory tier."""
    queue: int
    """Bytes of blocks that wait to be written."""
    checkpoint_share: float = 0.5
    """What part of a tier checkpoints may take."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What else limits a store; without it, its budgets do."""

    pressure: Pressure | None = None
    wear: Wear | None = None
    """Of the disk tier."""


def wall_clock() -> float:
    """Seconds since 1970: what hits are dated by, over restarts."""
    return time.time_ns() / 1e9


ScopeKey = tuple[object, str]
"""Adapters and salt."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose blocks: a namespace under a set of adapters and a salt."""

    digest: bytes
    namespace: Namespace


@dataclass(slots=True)
class _Reading:
    """A block on its way, and everyone who waits for it."""

    node: Node
    tier: Tier
    scope: bytes
    waiting: list[tuple[Lease, int]] = field(default_factory=list)


class BlockStore:
    """Blocks of one namespace over its tiers.

    `files` are opened here; one that cannot be is left out, and why is logged. `watch` says when
    the machine runs short. `clock` tells seconds of a clock that goes on over restarts.
    """

    def __init__(
        self,
        namespace: Namespace,
        files: Mapping[Tier, FileTier],
        budgets: Budgets,
        watch: Watch | None = None,
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        self.namespace = namespace
        self._records = Records(budgets.checkpoint_share, clock)
        self.index, self.counters = self._records.index, self._records.counters
        self.memory_bytes = self._memory_budget = budgets.memory
        """Most bytes of the memory tier now: its budget, or less while memory is short."""
        self.refused: dict[Tier, str] = {}
        """Why a tier that was asked for is not there."""
        self.advice = NO_ADVICE
        """What the machine was short of when it was last looked at."""
        self._clock = clock
        self._memory = MemoryTier()
        self._files = self._opened(files)
        self._watch = watch or Watch()
        self._budgets = {tier: one.budget for tier, one in self._files.items()}
        pressure = self._watch.pressure
        self._transfer = Transfer(
            self._files, budgets.queue, None if pressure is None else pressure.sample
        )
        self._filing = Filing(self._files, self._records, self._transfer)
        self._scopes: OrderedDict[ScopeKey, Scope] = OrderedDict()
        self._reading: dict[int, _Reading] = {}
        self._tickets = itertools.count()
        self._usage_saved = self._clock()
        self._is_used = False

    def _opened(self, wanted: Mapping[Tier, FileTier]) -> dict[Tier, FileTier]:
        found: dict[Tier, FileTier] = {}
        for tier, files in wanted.items():
            try:
                scan = files.open()
            except DiskRefused as error:
                logger.warning("the %s tier of the cache is off: %s", tier.name.lower(), error)
                self.refused[tier] = str(error)
                continue
            found[tier] = files
            with _without_collecting():  # it would look at each of a hundred thousand nodes again
                self._records.learn(tier, scan)
            self.index.set_heats(files.load_usage(), self._clock())
            for key in files.pins():
                self.index.pin(key)
        return found

    @property
    def folder(self) -> Path | None:
        """The directory of this namespace on disk, else on tmpfs, for what outlives a process."""
        best = self._files.get(Tier.DISK) or self._files.get(Tier.SHM)
        return None if best is None else best.path

    # ---- looking ------------------------------------------------------------------------------

    def scope(self, adapters: Adapters = (), salt: str = "") -> Scope:
        """The part of the cache that belongs to a set of adapters and a salt."""
        known = self._scopes.get((tuple(adapters), salt))
        if known is not None:
            self._scopes.move_to_end((tuple(adapters), salt))
            return known
        namespace = self.namespace.under(adapters, salt)
        scope = Scope(namespace.digest, namespace)
        self._scopes[tuple(adapters), salt] = scope
        if len(self._scopes) > _MAX_SCOPES:
            self._scopes.popitem(last=False)
        for files in self._files.values():
            self._transfer.do(partial(_call, files.add_scope, namespace))
        return scope

    def scopes(self) -> list[tuple[ScopeKey, Scope]]:
        """Those that were used lately: ((adapters, salt), scope)."""
        return list(self._scopes.items())

    def match(self, scope: Scope, tokens: Sequence[int], *, needs_state: bool = False) -> Match:
        """The blocks that the tokens begin with. No side effect."""
        return self.index.match(scope.digest, tokens, needs_state=needs_state)

    def was_evicted(self, key: Key) -> bool:
        """Whether a block of this key was here and had to go, as far as is remembered."""
        return self._records.was_evicted(key)

    def lease(self, scope: Scope, nodes: Sequence[Node], rows: Rows | None = None) -> Lease:
        """Hold blocks and begin to read them. Those in memory are there at once.

        With `rows`, where each has its place, what is read from files goes there first.
        """
        nodes = tuple(nodes)
        self.index.lease(nodes)
        self.index.touch(nodes, self._clock())
        self._is_used = True
        lease, reads = Lease(nodes, self._release), list[Read]()
        for place, node in enumerate(nodes):
            block = self._memory.read(node)
            if block is not None:
                lease.blocks[place], lease.tiers[place] = block, Tier.MEMORY
            else:
                reads += self._wanted(scope.digest, node, [(lease, place)], rows)
        if reads:
            self._transfer.read(reads)
        return lease

    def hold(self, nodes: Sequence[Node]) -> None:
        """Let nobody evict these until they are let go as often: somebody waits who needs them."""
        self.index.lease(nodes)

    def let_go(self, nodes: Sequence[Node]) -> None:
        """They may be evicted again."""
        self.index.release(nodes)

    def _release(self, lease: Lease) -> None:
        self.index.release(lease.nodes)

    def _wanted(
        self,
        scope: bytes,
        node: Node,
        waiting: list[tuple[Lease, int]],
        rows: Rows | None = None,
    ) -> list[Read]:
        """The read for those who wait for a block; none: it is on its way, or will not come."""
        for other in self._reading.values():
            if other.node is node:
                other.waiting += waiting
                return []
        tier = next((tier for tier in self._files if node.tiers & tier.bit), None)
        if tier is None:
            for lease, place in waiting:
                lease.cut = place if lease.cut is None else min(lease.cut, place)
            return []
        ticket = next(self._tickets)
        self._reading[ticket] = _Reading(node, tier, scope, waiting)
        places = () if rows is None else rows.places(node.start, node.end)
        return [Read(ticket, tier, name_of_node(node, tier), scope, places)]

    # ---- keeping ------------------------------------------------------------------------------

    def offer(self, block: Block, seconds: float = 0.0) -> bool:
        """Keep a block wherever there is room; False: nowhere.

        `seconds`: what it took to compute it. Its contents must not change any more. It is durable
        when its write was done, which `flush` waits for.
        """
        node = self.index.get(block.head.key, block.head.kind)
        is_kept = self._into_memory(block, seconds) if node is None else True
        for tier in self._files:
            if node is None or not node.tiers & tier.bit:
                is_kept = self._into_files(tier, block) or is_kept
        return is_kept

    def shrink_memory(self, nbytes: int) -> None:
        """Let blocks go until the memory tier holds no more than this: the machine needs it."""
        need = self.index.bytes_of(Tier.MEMORY) - max(0, nbytes)
        for node in self.index.victims(Tier.MEMORY, need) if need > 0 else []:
            self._forget(node)

    def _into_memory(self, block: Block, seconds: float = 0.0) -> bool:
        budget, size = self.memory_bytes, block.nbytes
        if size > budget:
            return False
        if block.head.kind == STATE:
            excess = self._records.checkpoints.excess(Tier.MEMORY, budget, size)
            if excess is None:
                return False
            for node in excess:
                self._forget(node)
        above = self.index.get(block.above)
        self.index.lease([above] if above else [])  # or it might go for what hangs on it
        self.shrink_memory(budget - size)
        self.index.release([above] if above else [])
        if self.index.bytes_of(Tier.MEMORY) + size > budget:
            return False  # everything in it is held
        head = block.head
        about = About(head.key, head.parent, head.kind, head.start, head.num_tokens)
        added = self._records.add(
            Tier.MEMORY, about, size, logits_bytes=head.logits_bytes, seconds=seconds
        )
        if added is None:
            return False
        self._memory.write(added, block)
        self.counters.written_blocks["memory"] += 1
        self.counters.written_bytes["memory"] += size
        return True

    def _forget(self, node: Node) -> None:
        """Let a block go out of memory; it stays where else it is."""
        block = self._memory.read(node)
        # One that was refused when it came is tried again: perhaps there is room by now.
        if not (
            block is None
            or self._filing.has(node)
            or any(self._into_files(tier, block) for tier in self._files)
        ):
            self._records.haunt(node)
        self._memory.delete(node)
        self._records.drop(node, Tier.MEMORY)
        self.counters.evicted_blocks["memory"] += 1

    def _into_files(self, tier: Tier, block: Block) -> bool:
        """Have a block written, and before it whatever is missing there of what it hangs on."""
        blocks = self._filing.with_missing(tier, block, self._memory)
        if blocks is None:
            self.counters.dropped_blocks["parent"] += 1
            return False
        return all(self._into_file(tier, one) for one in blocks)

    def _into_file(self, tier: Tier, block: Block) -> bool:
        if self._filing.is_writing(tier, block):
            return True
        if block.head.kind == STATE:
            more = on_disk(block.head.size) + self._filing.states_bytes(tier)
            excess = self._records.checkpoints.excess(tier, self._files[tier].budget, more)
            if excess is None:
                self.counters.dropped_blocks["share"] += 1
                return False
            self._delete(tier, excess)
        wear = self._watch.wear if tier is Tier.DISK else None
        if wear is not None and wear.left - self._transfer.queued_bytes < block.head.size:
            self.counters.dropped_blocks["daily"] += 1
            return False
        if self._filing.write(tier, block):
            return True
        self.counters.dropped_blocks["queue"] += 1
        return False

    def _delete(self, tier: Tier, nodes: Sequence[Node]) -> None:
        if not nodes:
            return
        names = [name_of_node(node, tier) for node in nodes]
        self._transfer.do(partial(_call, self._files[tier].delete, names))
        for node in nodes:
            self._records.evict(node, tier)

    # ---- what comes back ----------------------------------------------------------------------

    def poll(self) -> None:
        """Take in what the i/o thread has done. Call it once per step."""
        for one in self._transfer.completions():
            if isinstance(one, ReadDone):
                self._take_read(one)
            elif isinstance(one, ReadApart):
                self._take_apart(one)
            elif isinstance(one, WriteDone):
                self._take_write(one)
            elif isinstance(one, Found):
                self._records.learn(one.tier, one.scan)
        sample = self._transfer.sample()
        if sample is not None:
            self._relieve(sample)
        if self._is_used and self._clock() - self._usage_saved > _USAGE_SECONDS:
            self._save_usage()

    def _relieve(self, sample: Sample) -> None:
        """Shrink tiers as far as the machine runs short, and let them grow as far as it is not."""
        if self._watch.pressure is None:
            return
        used = {tier: self.index.bytes_of(tier) for tier in (Tier.MEMORY, *self._files)}
        self.advice = self._watch.pressure.advice(sample, used)
        self.memory_bytes = self._allowed(Tier.MEMORY, self._memory_budget)
        self.shrink_memory(self.memory_bytes)
        for tier, files in self._files.items():
            files.budget = self._allowed(tier, self._budgets[tier])
            excess = used[tier] - files.budget
            if excess > 0:
                self._delete(tier, self.index.victims(tier, excess))

    def _allowed(self, tier: Tier, budget: int) -> int:
        """What a tier may have now."""
        room = self.advice.rooms.get(tier, budget)
        return min(budget, self.advice.targets.get(tier, room))

    def wait(self, seconds: float) -> None:
        """Until the i/o thread has done something, or has nothing to do, or the time is up."""
        self._transfer.wait(seconds)

    def _take_apart(self, done: ReadApart) -> None:
        reading = self._reading[done.ticket]
        lease, place = reading.waiting[0]  # whose rows they are; who came later waits for a block
        lease.apart[place], lease.tiers[place] = done.head, reading.tier

    def _take_read(self, done: ReadDone) -> None:
        reading = self._reading.pop(done.ticket)
        node, tier = reading.node, reading.tier
        if done.block is None:
            if done.cause == "vanished":
                self.counters.missing_blocks += 1
            else:
                self.counters.bad_blocks[done.cause] += 1
            self._records.drop(node, tier)
            self._records.haunt(node)
            # From another tier, or they are cut.
            self._transfer.read(self._wanted(reading.scope, node, reading.waiting))
            return
        for lease, place in reading.waiting:
            lease.blocks[place], lease.tiers[place] = done.block, tier
        if not node.tiers & Tier.MEMORY.bit:
            self._into_memory(done.block)

    def _take_write(self, done: WriteDone) -> None:
        tier, published = done.tier, done.published
        self._filing.take(done)
        excess = self._records.checkpoints.excess(tier, self._files[tier].budget, 0)
        self._delete(tier, excess or [])  # of those that were spared
        label = tier.name.lower()
        self.counters.written_blocks[label] += len(published.done)
        self.counters.written_bytes[label] += published.written_bytes
        wear = self._watch.wear if tier is Tier.DISK else None
        if wear is not None and wear.record(published.written_bytes):
            self._transfer.do(wear.save)
        for refusal in published.refused:
            self.counters.dropped_blocks[refusal.cause] += 1
            if refusal.cause == "namespace":  # its scope could not be added: try that again
                self._forget_scope(refusal.block.head.namespace)

    def _forget_scope(self, digest: bytes) -> None:
        for key, scope in self.scopes():
            if scope.digest == digest:
                del self._scopes[key]

    # ---- the end ------------------------------------------------------------------------------

    def flush(self, seconds: float) -> bool:
        """Wait until everything that was taken for the file tiers is durable there, or refused.

        False: the time was up before.
        """
        deadline = time.monotonic() + seconds
        while self._transfer.flush(deadline - time.monotonic()):
            self.poll()  # what was read moves others out of memory, and some of those into files
            if self._transfer.is_idle:
                return True
        self.poll()
        return False

    def pin(self, key: Key, *, is_pinned: bool = True) -> None:
        """Keep the blocks up to a key, here and wherever files are, or no longer."""
        (self.index.pin if is_pinned else self.index.unpin)(key)
        for files in self._files.values():
            job = files.pin if is_pinned else files.unpin
            self._transfer.do(partial(_call, job, key))

    def _save_usage(self) -> None:
        self._usage_saved, self._is_used = self._clock(), False
        heats = self.index.heats(self._clock())
        for files in self._files.values():
            self._transfer.do(partial(_call, files.save_usage, heats))

    def close(self, seconds: float = _CLOSE_SECONDS) -> bool:
        """Write what was taken, within a time, and end. False: some of it was dropped."""
        if self._is_used:
            self._save_usage()
        if self._watch.wear is not None:
            self._transfer.do(self._watch.wear.save)
        is_done = self.flush(seconds)
        is_done = self._transfer.close(seconds if is_done else 0.0) and is_done
        self.poll()
        for files in self._files.values():
            files.close()
        return is_done

    def sizes(self) -> dict[str, dict[str, int]]:
        """Bytes, blocks and budget of each tier."""
        budgets = {Tier.MEMORY: self.memory_bytes}
        budgets |= {tier: files.budget for tier, files in self._files.items()}
        return {
            tier.name.lower(): {
                "bytes": self.index.bytes_of(tier),
                "blocks": self.index.count_of(tier),
                "budget": budget,
            }
            for tier, budget in budgets.items()
        }

    def check(self) -> list[str]:
        """What contradicts itself between index and memory; empty: nothing. For tests."""
        problems = self.index.check()
        held = sum(1 for _ in self.index.nodes(Tier.MEMORY))
        if held != len(self._memory):
            problems.append(f"{held} blocks should be in memory, and {len(self._memory)} are")
        return problems


@contextmanager
def _without_collecting() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _call(job: Callable[[_T], object], argument: _T) -> None:
    """For jobs whose answer nobody waits for."""
    job(argument)
