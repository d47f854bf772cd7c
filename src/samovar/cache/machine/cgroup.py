"""Memory limits of the control groups that this process is in, version 1 and 2.

Limits nest: a group is bound by its own and by those of all groups around it, each with what all
its members use together. Every limit of every visible group is therefore an account of its own,
and the one with the least left decides. Groups outside of the container cannot be seen; version 1
tells the tightest limit among them (`hierarchical_memory_limit`), version 2 nothing.

`memory.high` counts as a limit, since a group above it is slowed down until it is below again.

Cached file pages on the inactive list are free: the kernel takes them back first. Pages that some
process has mapped are not, though they may be on that list: the weights of a model are such pages,
and a model that reads them from the disk in every step is what a limit has to be kept away from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from samovar.cache.machine.gauge import Reading, Resource, read_number, read_table, read_text

_NO_LIMIT = 2**60  # version 1 writes the largest number of whole pages, which is about 2**63
_ESCAPE = re.compile(r"\\([0-7]{3})")  # in mountinfo: blanks, tabs, line ends and backslashes


@dataclass(frozen=True, slots=True)
class Group:
    """A control group, as far as it can be seen from here."""

    folder: Path
    name: str
    """Its path below the mount point: `/` is the outermost visible group."""
    version: int


def own_groups(root: Path) -> list[Group]:
    """The groups whose limits bind this process: its own first, then those around it.

    `root` is where the file system of the machine begins. Where both versions are mounted, the
    groups of both follow each other. Empty where nothing is mounted.
    """
    paths = _own_paths(root)
    found: list[Group] = []
    for point, (version, mount_root) in _mounts(root).items():
        if version in paths:
            below = _below(paths[version], mount_root)
            for inner in (below, *below.parents):
                folder = root / point.lstrip("/") / inner.relative_to("/")
                found.append(Group(folder, str(inner), version))
    return found


def memory_readings(group: Group) -> list[Reading]:
    """What the limits of one group leave. Empty where it has none, or is gone."""
    is_new = group.version == 2
    used = read_number(group.folder / ("memory.current" if is_new else "memory.usage_in_bytes"))
    if used is None:
        return []
    stat = read_table(group.folder / "memory.stat")
    used -= min(used, _reclaimable(stat, "" if is_new else "total_"))
    return [
        Reading(f"{file} of {group.name}", Resource.MEMORY, max(0, limit - used), limit)
        for file, limit in (_limits(group) if is_new else _old_limits(group, stat))
        if limit is not None and limit < _NO_LIMIT
    ]


def _limits(group: Group) -> Iterator[tuple[str, int | None]]:
    for file in ("memory.max", "memory.high"):
        yield file, read_number(group.folder / file)


def _old_limits(group: Group, stat: dict[str, int]) -> Iterator[tuple[str, int | None]]:
    # Not memory.soft_limit_in_bytes: it binds nobody.
    yield "memory.limit_in_bytes", read_number(group.folder / "memory.limit_in_bytes")
    yield "hierarchical_memory_limit", stat.get("hierarchical_memory_limit")


def _reclaimable(stat: dict[str, int], prefix: str) -> int:
    """Bytes of cached files that can go: on the inactive list, and mapped by nobody."""
    inactive = stat.get(f"{prefix}inactive_file", 0)
    active = stat.get(f"{prefix}active_file", 0)
    # Mapped tmpfs counts too, though it is on neither list; the shm tier maps none of its own.
    # Without it the number would rise and fall with the whole tmpfs, mapped or not.
    mapped = stat.get(f"{prefix}mapped_file" if prefix else "file_mapped", 0)
    return min(inactive, max(0, inactive + active - mapped))


def _mounts(root: Path) -> dict[str, tuple[int, str]]:
    """Mount points of control groups that may limit memory: version, and the group mounted."""
    found: dict[str, tuple[int, str]] = {}
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        # 36 35 98:0 ROOT POINT options [more fields] - TYPE source OPTIONS
        front, _, back = line.partition(" - ")
        fields, (kind, options) = front.split(), _kind(back)
        if len(fields) < 5:
            continue
        mount_root, point = (_ESCAPE.sub(_unescaped, field) for field in fields[3:5])
        found.pop(point, None)  # what was mounted here before is hidden
        if kind == "cgroup2":
            found[point] = 2, mount_root
        elif kind == "cgroup" and "memory" in options:
            found[point] = 1, mount_root
    return found


def _kind(back: str) -> tuple[str, list[str]]:
    fields = back.split()
    return (fields[0], fields[-1].split(",")) if fields else ("", [])


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 8))


def _own_paths(root: Path) -> dict[int, str]:
    """By version, the group of this process that may limit memory."""
    found = {}
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found[2] = path
        elif "memory" in controllers.split(","):
            found[1] = path
    return found


def _below(path: str, mount_root: str) -> PurePosixPath:
    """The group of this process as seen from the mount point, beginning with `/`.

    Containers without a namespace of their own see paths of the host that lead nowhere here, or
    out of what is mounted; what is mounted is then a group around this process.
    """
    own, mounted = PurePosixPath(path), PurePosixPath(mount_root)
    if own.is_relative_to(mounted):
        inner = own.relative_to(mounted)
        if ".." not in inner.parts:
            return PurePosixPath("/") / inner
    return PurePosixPath("/")
