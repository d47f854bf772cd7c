"""How much memory this machine has to give now: the kernel's figure, within cgroups' limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


class _Names(NamedTuple):
    """Where a cgroup says what it may use and uses."""

    limit: str
    used: str
    files: tuple[str, str]


_V2 = _Names("memory.max", "memory.current", ("active_file", "inactive_file"))
_V1 = _Names(
    "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")
)


def available_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """Memory that can be had now without swapping: the kernel's figure, within the cgroup's limits.

    None where the system does not say.
    """
    return min([*_meminfo(proc), *_cgroup_rooms(proc, cgroups)], default=None)


def _meminfo(proc: Path) -> Iterator[int]:
    with suppress(OSError):
        for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _cgroup_rooms(proc: Path, cgroups: Path) -> Iterator[int]:
    """Room under each memory limit that holds for this process, its parents' too."""
    try:
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if not controllers:
            root, names = cgroups, _V2
        elif "memory" in controllers.split(","):
            root, names = cgroups / "memory", _V1
        else:
            continue
        own = PurePosixPath(place.lstrip("/"))
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError, KeyError):  # no such folder, or no limit there
                yield _room(root / folder, names)


def _room(folder: Path, names: _Names) -> int:
    """What is left under one limit. Of the page cache, files can be given back, tmpfs cannot."""
    limit = int((folder / names.limit).read_text(encoding="ascii"))
    used = int((folder / names.used).read_text(encoding="ascii"))
    stat = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
    return max(0, limit - used + sum(int(stat[name]) for name in names.files))
