"""The i/o thread: all file work of a cache, reads before everything else.

    engine thread ── read, write, delete ──> [ i/o thread ] ── completions ──> engine thread

Nothing here waits for the disk but the thread itself. Writes stand in a queue of bounded bytes;
one that does not fit is refused at once. Whatever goes wrong with a file comes back as the cause of
a read or write that was not done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from samovar.cache.block import ROWS, BadBlock, Block, Head
from samovar.cache.files.names import Name
from samovar.cache.files.tier import FileTier, Missing, Published, Refusal, Scan
from samovar.cache.index.index import Tier
from samovar.cache.keys import Key
from samovar.cache.machine.pressure import Sample

logger = logging.getLogger(__name__)

_GROUP_BLOCKS = 32  # published together: one wait for the disk's own cache instead of as many
_GROUP_BYTES = 2**26
_LAST_SECONDS = 30.0  # for what is being read or written when nothing more is begun
_MAX_REFUSED = 4096  # keys that are remembered; what hangs on them follows soon
_LOOK_SECONDS = 1.0  # how old what another process published may be before it is seen
_LOOK_SHARE = 0.05  # of the thread's time: a directory of 100,000 blocks takes a second to list


@dataclass(frozen=True, slots=True)
class Read:
    """A block of a scope that somebody wants."""

    ticket: int
    """Comes back with it."""
    tier: Tier
    name: Name
    namespace: bytes
    places: Sequence[np.ndarray] = ()
    """Where its payload belongs, in this order; none: anywhere."""


@dataclass(frozen=True, slots=True)
class ReadDone:
    """A read came back: the block, or why not (`missing`, or the cause of a BadBlock)."""

    ticket: int
    block: Block | None
    cause: str = ""


@dataclass(frozen=True, slots=True)
class ReadApart:
    """A block is in the places that were given for it, verified. Its ReadDone follows."""

    ticket: int
    head: Head


@dataclass(frozen=True, slots=True)
class WriteDone:
    """A group was published. What is in `published.done` is durable where the tier is."""

    tier: Tier
    blocks: tuple[Block, ...]
    published: Published
    used_bytes: int
    """What counts against the tier's budget now: more than its blocks."""


@dataclass(frozen=True, slots=True)
class Found:
    """Another process has changed the directory: what is in it now."""

    tier: Tier
    scan: Scan


Completion = ReadDone | ReadApart | WriteDone | Found


@dataclass(frozen=True, slots=True)
class _Asked:
    read: Read
    is_first: bool
    """Of those that were asked for together."""


@dataclass(frozen=True, slots=True)
class _Gather:
    read: Read
    head: Head


@dataclass(frozen=True, slots=True)
class _Write:
    tier: Tier
    block: Block
    victims: tuple[Name, ...]


class Transfer:
    """One thread over the file tiers of one namespace. Its methods are called by one other."""

    def __init__(
        self,
        tiers: Mapping[Tier, FileTier],
        queue_bytes: int,
        sample: Callable[[], Sample] | None = None,
    ) -> None:
        """`sample` reads what the machine still has; it is asked about once a second."""
        self._tiers = dict(tiers)
        self._queue_bytes = queue_bytes
        self._sample = sample
        self._sampled: Sample | None = None
        self._changed = threading.Condition()
        self._reads: deque[_Asked | _Gather] = deque()
        self._jobs: deque[Callable[[], None]] = deque()
        self._writes: deque[_Write] = deque()
        self._refused: dict[tuple[Tier, Key], None] = {}
        self._named: dict[Tier, list[Name]] = {}
        self._queued = 0
        self._is_busy = False
        self._is_closing = False
        self._done: deque[Completion] = deque()
        self._thread = threading.Thread(target=self._run, name="samovar-cache", daemon=True)
        if self._tiers or sample is not None:
            self._thread.start()

    # ---- from the engine's thread -------------------------------------------------------------

    @property
    def queued_bytes(self) -> int:
        """Bytes of the blocks that wait to be written."""
        return self._queued

    def read(self, reads: Sequence[Read]) -> None:
        """Read blocks that are of use together: who waits is woken when the last one is there.

        Where there are places, the ticket comes back as soon as the payload is in them, and again
        with a block that is copied from there once what else was asked for by then has been read.
        Until then nobody else may write there.
        """
        with self._changed:
            self._reads.extend(_Asked(read, number == 0) for number, read in enumerate(reads))
            self._changed.notify_all()

    def write(self, tier: Tier, block: Block, victims: tuple[Name, ...] = ()) -> bool:
        """Have a block published, in place of `victims` as far as there is no room for it.

        What is not needed for it may go for those behind it. False: the queue is full, or the tier
        is not there.
        """
        if tier not in self._tiers:
            return False
        with self._changed:
            if not self.has_room(block):
                return False
            self._queued += block.nbytes
            self._writes.append(_Write(tier, block, victims))
            self._changed.notify_all()
        return True

    def spare(self, tier: Tier) -> None:
        """Nothing is being written to the tier: what might have gone for it stays."""
        self._named.pop(tier, None)

    def has_room(self, block: Block) -> bool:
        """Whether a block can be written as far as the queue is concerned."""
        return not self._is_closing and self._queued + block.nbytes <= self._queue_bytes

    def do(self, job: Callable[[], None]) -> None:
        """Have something small done on the thread: before the writes, after the reads."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def completions(self) -> list[Completion]:
        """What has come back since the last call."""
        found: list[Completion] = []
        while self._done:
            found.append(self._done.popleft())
        return found

    def sample(self) -> Sample | None:
        """The last sample, once."""
        found, self._sampled = self._sampled, None
        return found

    def wait(self, seconds: float) -> None:
        """Until something has come back, or nothing is under way, or the time is up."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._done and self._has_work():
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def flush(self, seconds: float) -> bool:
        """Wait until everything that was accepted is done. False: the time was up before."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._has_work():
                left = deadline - time.monotonic()
                if left <= 0 or not self._thread.is_alive():
                    return False
                self._changed.wait(left)
        return True

    def close(self, seconds: float) -> bool:
        """Finish what was accepted, within a time, and end the thread. False: some was dropped."""
        is_done = self.flush(seconds)
        with self._changed:
            self._is_closing = True
            self._reads.clear()
            self._writes.clear()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(_LAST_SECONDS)
        return is_done

    @property
    def is_idle(self) -> bool:
        """Whether everything is done, and was taken in."""
        with self._changed:
            return not self._has_work() and not self._done

    def _has_work(self) -> bool:
        return bool(self._reads or self._jobs or self._writes or self._is_busy)

    # ---- on the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        due = time.monotonic() + _LOOK_SECONDS
        while (work := self._next()) is not _CLOSED:
            if work is not None:
                self._carry_out(work)
            began = time.monotonic()
            if began >= due:
                for tier in self._tiers:
                    self._carry_out(partial(self._look, tier))
                if self._sample is not None:
                    self._carry_out(partial(self._take_sample, self._sample))
                took = time.monotonic() - began
                due = began + max(_LOOK_SECONDS, took / _LOOK_SHARE)

    def _next(self) -> Callable[[], None] | None:
        """The next thing to do; None: time to look around."""
        with self._changed:
            if not self._has_work() and not self._is_closing:
                self._changed.wait(_LOOK_SECONDS)
            self._is_busy = True
            if self._reads:
                read = self._reads.popleft()
                if isinstance(read, _Gather):
                    return partial(self._gather, read)
                return partial(self._read, read.read)
            if self._jobs:
                return self._jobs.popleft()
            if self._writes and not self._is_closing:
                group = self._group()
                return partial(self._write, group)
            self._is_busy = False
            return _CLOSED if self._is_closing else None

    def _group(self) -> list[_Write]:
        """Writes to one tier that are published together, in the order in which they came."""
        taken, others, size = [self._writes.popleft()], list[_Write](), 0
        while self._writes and len(taken) < _GROUP_BLOCKS and size < _GROUP_BYTES:
            one = self._writes.popleft()
            if one.tier is taken[0].tier:
                taken.append(one)
                size += one.block.nbytes
            else:
                others.append(one)
        self._writes.extendleft(reversed(others))
        return taken

    def _carry_out(self, work: Callable[[], None]) -> None:
        """One thing that went wrong must not end the thread that everything waits for."""
        try:
            work()
        except Exception:
            logger.exception("file work of the cache failed; its blocks are computed again")
        finally:
            with self._changed:
                self._is_busy = False
                following = self._reads[0] if self._reads else None
                # Waking somebody for each of 32 blocks takes a fifth of the time of reading them.
                if not isinstance(following, _Asked) or following.is_first:
                    self._changed.notify_all()

    def _read(self, read: Read) -> None:
        found: Head | Block | None = None
        cause = "internal"
        try:
            tier = self._tiers[read.tier]
            if read.places:
                found = tier.read_apart(read.name, read.namespace, read.places)
            else:
                found = tier.read(read.name, read.namespace)
        except (Missing, BadBlock) as error:
            cause = error.cause
        finally:
            if isinstance(found, Head):
                self._done.append(ReadApart(read.ticket, found))
                with self._changed:
                    self._reads.append(_Gather(read, found))
            else:
                self._done.append(ReadDone(read.ticket, found, "" if found else cause))

    def _gather(self, gather: _Gather) -> None:
        read, block, cause = gather.read, None, "internal"
        try:
            block = self._tiers[read.tier].gather(gather.head, read.places)
        except Missing as error:
            cause = error.cause
        finally:
            self._done.append(ReadDone(read.ticket, block, "" if block else cause))

    def _write(self, group: list[_Write]) -> None:
        tier, blocks = group[0].tier, tuple(one.block for one in group)
        evict = self._evictable(tier, group)
        published, used = Published([], [Refusal(one, "internal") for one in blocks], [], 0), 0
        try:
            wanted, orphans = self._parted(tier, blocks)
            published = self._tiers[tier].publish(wanted, evict=evict)
            published.refused.extend(Refusal(one, "parent") for one in orphans)
            used = self._tiers[tier].used_bytes()
        finally:
            self._remember(tier, published)
            gone = set(published.evicted)
            self._named[tier] = [name for name in evict if name not in gone]
            with self._changed:
                self._queued -= sum(one.nbytes for one in blocks)
            self._done.append(WriteDone(tier, blocks, published, used))

    def _evictable(self, tier: Tier, group: Sequence[_Write]) -> list[Name]:
        """What may go for a group: first what was not needed for those before it."""
        named = self._named.pop(tier, [])
        named += [name for one in group for name in one.victims]
        wanted = {(one.block.head.key, one.block.head.kind) for one in group}
        return [name for name in named if (name.key, name.kind) not in wanted]

    def _parted(self, tier: Tier, blocks: Sequence[Block]) -> tuple[list[Block], list[Block]]:
        """Those that can be written, and those that hang on what an earlier group was refused."""
        wanted, orphans, here, lost = [], [], set[Key](), set[Key]()
        for block in blocks:
            above = block.above
            if above not in here and (above in lost or (tier, above) in self._refused):
                orphans.append(block)
                lost.add(block.head.key)
            else:
                wanted.append(block)
                here.add(block.head.key)
        return wanted, orphans

    def _remember(self, tier: Tier, published: Published) -> None:
        for name, _ in published.done:
            self._refused.pop((tier, name.key), None)
        for block, _ in published.refused:
            if block.head.kind == ROWS:
                self._refused[tier, block.head.key] = None
        while len(self._refused) > _MAX_REFUSED:
            del self._refused[next(iter(self._refused))]

    def _look(self, tier: Tier) -> None:
        scan = self._tiers[tier].rescan()
        if scan is not None:
            self._refused.clear()  # another process may have written them
            self._done.append(Found(tier, scan))

    def _take_sample(self, sample: Callable[[], Sample]) -> None:
        self._sampled = sample()


def _closed() -> None:
    """Stands for the end of the thread's work."""


_CLOSED = _closed
