"""What the machine still has, and what the tiers should give back before the kernel takes it.

Each account of memory, tmpfs, disk and GPU (a Reading) has a low and a high watermark. When more
than the high one is in use, tiers shrink until no more than the low one is, and only then is the
account forgotten again: between the two nothing begins, and what has begun goes on.

    free bytes:  0 ........ high mark ........ low mark ........ total
                 | shrinking begins | goes on, once begun | nothing |

What the memory tier gives back, it may not move to shm: that is the same memory. So while memory
is short, shm may not grow, and it shrinks by what the memory tier does not have. The disk tier
shrinks for the disk alone.

While processes wait for memory (PSI), the memory tier gives up half of what it has each time,
whatever its accounts say: the kernel knows limits that cannot be seen from a container.

Nothing here raises: what cannot be read is not known, and what is not known asks for nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from samovar.cache.index.node import Tier
from samovar.cache.machine.cgroup import memory_readings, own_groups
from samovar.cache.machine.gauge import Reading, Resource, Source
from samovar.cache.machine.kernel import Stall, StatVfs, available_memory, file_system, stall

GIB = 2**30

STALLED_PERCENT = 10.0  # of ten seconds: well above what starting a program costs, far from a halt
_URGENT_SHARE = (
    0.5  # given up at once: a few rounds and the tier is empty, one alone leaves it warm
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Where shrinking begins and ends, as shares of the total that are in use.

    Shares of a large total keep more free than anybody needs; so not more than `most_free` bytes
    are kept free at the low mark, and at the high one as much less as the shares say. Raises
    ValueError unless 0 < low < high < 1 and `most_free` is positive.
    """

    high: float = 0.90
    low: float = 0.80
    most_free: int = 8 * GIB

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < 1 or self.most_free <= 0:
            raise ValueError("watermarks: 0 < low < high < 1, and a positive number of bytes")

    def begins_below(self, total: int) -> int:
        """Free bytes below which shrinking begins."""
        share = (1 - self.high) / (1 - self.low)
        return round(min(total * (1 - self.high), self.most_free * share))

    def ends_at(self, total: int) -> int:
        """Free bytes at which it ends."""
        return round(min(total * (1 - self.low), self.most_free))


# A file system that is nearly full works as well as an empty one: less is kept free than of memory.
FILE_SYSTEM_MARKS = Watermarks(high=0.95, low=0.90, most_free=10 * GIB)

DEFAULT_MARKS: Mapping[Resource, Watermarks] = {
    Resource.MEMORY: Watermarks(),
    Resource.SHM: FILE_SYSTEM_MARKS,
    Resource.DISK: FILE_SYSTEM_MARKS,
    Resource.DEVICE: Watermarks(),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """What all accounts say at one time. An account that is missing is not known."""

    readings: tuple[Reading, ...] = ()
    stall: Stall | None = None

    @property
    def memory_free(self) -> int | None:
        """Bytes of memory that are left by the tightest account; None: not known."""
        return self.free(Resource.MEMORY)

    @property
    def memory_total(self) -> int | None:
        """Bytes of memory that this process may ever have: the smallest limit, or the machine."""
        return min((r.total for r in self.readings if r.resource is Resource.MEMORY), default=None)

    @property
    def shm_free(self) -> int | None:
        """Bytes left on the tmpfs of the shm tier; None: not known."""
        return self.free(Resource.SHM)

    @property
    def disk_free(self) -> int | None:
        """Bytes left on the file system of the disk tier; None: not known."""
        return self.free(Resource.DISK)

    @property
    def psi(self) -> float | None:
        """Percent of the last ten seconds in which some process waited for memory."""
        return self.stall.percent if self.stall else None

    def free(self, resource: Resource) -> int | None:
        """What is left by the tightest account of a resource; None: not known."""
        return min((r.free for r in self.readings if r.resource is resource), default=None)


@dataclass(frozen=True, slots=True)
class Advice:
    """What the tiers should shrink to, and why."""

    targets: Mapping[Tier, int] = field(default_factory=dict)
    """Bytes that a tier should have at most until the next advice: from 0 to what it has now.
    A tier that is not named need not shrink."""
    rooms: Mapping[Tier, int] = field(default_factory=dict)
    """Bytes to which a tier may grow before its own growth makes something short again. Without
    that it would fill what it just gave back, and so on for ever."""
    short: tuple[Reading, ...] = ()
    """The accounts that are short of something, those of devices included."""
    is_urgent: bool = False
    """Processes are waiting for memory."""


NO_ADVICE = Advice()


class Pressure:
    """Samples the machine and remembers what was short.

    One thread may take samples while another asks for advice: they share nothing that changes.

    `shm` and `disk` are the roots of those tiers, existing or not; None: there is no such tier.
    `sources` are accounts of somebody else: a GPU's memory, a quota. `root` is where the machine's
    file system begins.
    """

    def __init__(
        self,
        *,
        shm: Path | None = None,
        disk: Path | None = None,
        sources: Sequence[Source] = (),
        marks: Mapping[Resource, Watermarks] = DEFAULT_MARKS,
        root: Path = Path("/"),
        statvfs: StatVfs = os.statvfs,
    ) -> None:
        self._root = root
        self._marks = {**DEFAULT_MARKS, **marks}
        self._sources: list[Source] = [partial(available_memory, root)]
        for place, resource in ((shm, Resource.SHM), (disk, Resource.DISK)):
            if place is not None:
                self._sources.append(partial(file_system, place, resource, statvfs))
        self._sources += [partial(_guarded, source) for source in sources]
        self._last = NO_ADVICE
        self._waited: int | None = None

    def sample(self) -> Sample:
        """Read all accounts. Takes about a millisecond, and what foreign sources take."""
        groups = own_groups(self._root)
        limits = [reading for group in groups for reading in memory_readings(group)]
        told = (source() for source in self._sources)
        readings = [*limits, *(reading for reading in told if reading is not None)]
        return Sample(tuple(readings), stall(self._root, groups))

    def advice(self, sample: Sample, used: Mapping[Tier, int]) -> Advice:
        """What the tiers, which have `used` bytes, should shrink to now.

        To be asked once for each sample, as it remembers what was short in the last one.
        """
        names = {reading.name for reading in self._last.short}
        is_waiting = _is_waiting(sample.stall, self._waited)
        self._last = advise(sample, used, self._marks, names, is_waiting=is_waiting)
        self._waited = sample.stall.total if sample.stall else None
        return self._last


def advise(
    sample: Sample,
    used: Mapping[Tier, int],
    marks: Mapping[Resource, Watermarks],
    were_short: Iterable[str] = (),
    *,
    is_waiting: bool = False,
) -> Advice:
    """What tiers of `used` bytes should shrink to. Pure.

    `were_short` names the accounts that were short before; `is_waiting` says that processes wait
    for memory now.
    """
    before = frozenset(were_short)
    short = tuple(r for r in sample.readings if _is_short(r, marks[r.resource], before))
    missing: dict[Resource, int] = {}
    for reading in short:
        wanted = marks[reading.resource].ends_at(reading.total) - reading.free
        missing[reading.resource] = max(wanted, missing.get(reading.resource, 0))
    # Stalls of the whole machine may be those of a group with a limit of its own, which nothing
    # that is given back here would help.
    is_own = sample.stall is not None and sample.stall.is_own
    is_urgent = is_waiting and (is_own or Resource.MEMORY in missing)
    given = _given_back(used, missing, is_urgent=is_urgent)
    targets = {tier: used[tier] - given[tier] for tier in given if tier in used}
    return Advice(targets, _rooms(sample, used, marks), short, is_urgent)


_LIVES_ON = {
    Tier.MEMORY: (Resource.MEMORY,),
    Tier.SHM: (Resource.MEMORY, Resource.SHM),
    Tier.DISK: (Resource.DISK,),
}


def _rooms(
    sample: Sample, used: Mapping[Tier, int], marks: Mapping[Resource, Watermarks]
) -> dict[Tier, int]:
    """What each tier has and what is free above the low mark, where that is known."""
    found: dict[Tier, int] = {}
    for tier, bytes_used in used.items():
        free = [
            reading.free - marks[reading.resource].ends_at(reading.total)
            for reading in sample.readings
            if reading.resource in _LIVES_ON[tier]
        ]
        if free:
            found[tier] = bytes_used + max(0, min(free))
    return found


def _is_short(reading: Reading, marks: Watermarks, were_short: frozenset[str]) -> bool:
    mark = marks.ends_at if reading.name in were_short else marks.begins_below
    return reading.free < mark(reading.total)


def _given_back(
    used: Mapping[Tier, int], missing: Mapping[Resource, int], *, is_urgent: bool
) -> dict[Tier, int]:
    """Bytes that each tier gives back, never more than it has; tiers that may grow are left out."""
    memory, shm = used.get(Tier.MEMORY, 0), used.get(Tier.SHM, 0)
    found: dict[Tier, int] = {}
    if Resource.MEMORY in missing or is_urgent:
        needed = missing.get(Resource.MEMORY, 0)
        at_once = int(memory * _URGENT_SHARE) + 1 if is_urgent else 0
        found[Tier.MEMORY] = min(memory, max(needed, at_once))
        found[Tier.SHM] = min(shm, needed - min(needed, memory))
    if Resource.SHM in missing:
        found[Tier.SHM] = min(shm, max(missing[Resource.SHM], found.get(Tier.SHM, 0)))
    if Resource.DISK in missing:
        found[Tier.DISK] = min(used.get(Tier.DISK, 0), missing[Resource.DISK])
    return found


def _is_waiting(now: Stall | None, waited: int | None) -> bool:
    """Whether much of the last seconds was spent waiting, and some of it since the last look.

    The average of ten seconds stays high for a while after the last wait; acting on it alone would
    empty a tier that has long given enough.
    """
    return now is not None and now.percent >= STALLED_PERCENT and now.total != waited


def _guarded(source: Callable[[], Reading | None]) -> Reading | None:
    try:
        return source()
    except Exception as error:  # noqa: BLE001 - somebody else's code may raise anything
        logger.debug("a source of pressure failed: %s", error)
        return None
