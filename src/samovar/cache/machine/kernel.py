"""What the machine has left: available memory, stalls for want of it, room on a file system."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from samovar.cache.machine.cgroup import Group
from samovar.cache.machine.gauge import Reading, Resource, number, read_table, read_text

StatVfs = Callable[[Path], os.statvfs_result]


@dataclass(frozen=True, slots=True)
class Stall:
    """How much the processes of a group, or all of them, wait for memory (the kernel's PSI)."""

    percent: float
    """Share of the last ten seconds in which at least one of them waited."""
    total: int
    """Microseconds of such waiting since the group began: while it stands still, nobody waits."""
    is_own: bool
    """It is about the group of this process: no other's shortage is in it."""


def available_memory(root: Path) -> Reading | None:
    """MemAvailable, without the files that this process has mapped. None: the kernel does not tell.

    The kernel counts the weights of a mapped model as available: it could read them again. What
    others have mapped is not known: `Mapped` in /proc/meminfo has mapped tmpfs in it, which is not
    available to begin with.
    """
    told = read_table(root / "proc/meminfo")
    free, total = told.get("MemAvailable"), told.get("MemTotal")
    if free is None or not total:
        return None
    mapped = read_table(root / "proc/self/status").get("RssFile", 0)
    # Of files, only those on the two lists count as available; locked ones are on neither.
    files = told.get("Active(file)", 0) + told.get("Inactive(file)", 0)
    left = max(0, free - min(mapped, files))
    return Reading("MemAvailable", Resource.MEMORY, min(left, total), total)


def file_system(path: Path, resource: Resource, statvfs: StatVfs) -> Reading | None:
    """Room where `path` lies or will lie. None where the file system does not tell."""
    for place in (path, *path.parents):
        try:
            stat = statvfs(place)
        except FileNotFoundError:
            continue  # not made yet: it will be made in the nearest directory that exists
        except (OSError, ValueError):
            return None
        total = stat.f_blocks * stat.f_frsize
        # What is kept for the superuser (f_bfree) is not for caches, whoever runs them.
        free = min(stat.f_bavail * stat.f_frsize, total)
        return Reading(f"{resource.value} file system", resource, free, total) if total else None
    return None


def stall(root: Path, groups: list[Group]) -> Stall | None:
    """The stalls of the innermost group that tells them, else of the machine; None: not told."""
    for group in groups:
        if group.version == 2 and (told := read_text(group.folder / "memory.pressure")):
            # The real root, which is the whole machine, has no such file.
            return _parsed(told, is_own=read_text(group.folder / "cgroup.type") is not None)
    told = read_text(root / "proc/pressure/memory")
    return _parsed(told, is_own=False) if told else None


def _parsed(text: str, *, is_own: bool) -> Stall | None:
    """From the line `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`."""
    for line in text.splitlines():
        kind, *words = line.split() or [""]
        values = dict(word.split("=", 1) for word in words if "=" in word)
        total = number(values.get("total", ""))
        percent = _percent(values.get("avg10", ""))
        if kind == "some" and percent is not None and total is not None:
            return Stall(percent, total, is_own)
    return None


def _percent(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 100 else None
