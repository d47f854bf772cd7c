"""All namespaces below one root: how much they take, which are in use, and which may go.

    ROOT/<32 hex digits>/    a namespace (`files`); `used` in it says who uses it (`presence`)
    ROOT/.gone-<hex>/        what is being deleted, or was when a process died: nobody's any more

A directory is deleted only while nobody uses it: under a lock on `used` that is not shared and
under its ledger's, it gets another name, so that whoever opens the namespace now begins a new one,
and then it is emptied. What looks like no namespace of ours is never touched.

The budget of a disk is one for all namespaces. Each may have what the others leave; that is looked
up whenever a group is published, so that the sum stays below the budget but for the group (64 MiB)
that another process may be writing at that moment.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from samovar.cache.block import ROWS, Block
from samovar.cache.files.folder import BLOCKS, PARTS, PINS, SCOPES, TOP, weight
from samovar.cache.files.ledger import LOCK, RECORD_BYTES, parse_record
from samovar.cache.files.names import Name, parse_name
from samovar.cache.files.outcomes import DiskRefused, Problem, Published, Scan
from samovar.cache.files.presence import MARK, PATIENCE, Presence, is_used, take_alone
from samovar.cache.files.tier import FileTier
from samovar.cache.filing import name_of_node
from samovar.cache.index.index import About, Index
from samovar.cache.index.node import Tier
from samovar.cache.keys import Namespace

UNUSED_SECONDS = 30 * 86_400.0
"""After so long nobody is expected to come back: the namespaces of older builds go this way."""

_NAME = re.compile("[0-9a-f]{32}")
_GONE = re.compile("\\.gone-[0-9a-f]{16}")
_ABOUT, _USAGE = "namespace.json", "usage"
_MAX_ABOUT = 2**20  # bytes; a namespace is a few hundred
_LEAST_SHARE = 4  # a namespace begins with at least a quarter of the budget, if others can go
_TRIES = 5  # of opening a directory that others delete at that moment


@dataclass(frozen=True, slots=True)
class Directory:
    """A namespace as it lies there."""

    path: Path
    used_bytes: int
    last_used: float
    """Seconds since the epoch, of when anybody opened, changed or closed it."""
    is_in_use: bool
    """Some process has it open."""
    num_pins: int

    @property
    def name(self) -> str:
        """32 hex digits."""
        return self.path.name


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a namespace."""

    num_blocks: int
    num_states: int
    """Of the blocks, those that hold what else there is to a state."""
    num_tokens: int
    """Different ones; a beginning that prompts share counts once."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of checking a namespace."""

    problems: list[Problem]
    """What was wrong."""
    left: list[Problem]
    """What of it still is, or has come up since."""
    num_removed: int
    """Leavings of dead processes, which whoever opens it removes."""


class House:
    """The namespaces below a root, which need not exist. Nothing here raises OSError."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # ---- looking ------------------------------------------------------------------------------

    def directories(self) -> list[Directory]:
        """Every namespace, the last used first. Reads no block and creates nothing."""
        found = [self._directory(path) for path in self._paths()]
        return sorted(found, key=lambda one: one.last_used, reverse=True)

    def used_bytes(self, *, but: Path | None = None) -> int:
        """What all of them take, or all but one."""
        return sum(_used_bytes(path) for path in self._paths() if path != but)

    def contents(self, directory: Directory) -> Contents:
        """What its names say."""
        names = [name for each in _listed(directory.path / BLOCKS) if (name := parse_name(each))]
        rows = {name.key: name.num_tokens for name in names if name.kind == ROWS}
        return Contents(len(names), sum(name.kind != ROWS for name in names), sum(rows.values()))

    def namespace(self, directory: Directory) -> Namespace | None:
        """What it is of; None if that cannot be read any more, or is not true."""
        with suppress(OSError, ValueError):
            fields = json.loads(_front(directory.path / _ABOUT, _MAX_ABOUT))
            if isinstance(fields, dict):
                found = Namespace(fields)
                return found if found.digest.hex().startswith(directory.name) else None
        return None

    def adapters(self, namespace: Namespace) -> list[tuple[tuple[str, float], ...]]:
        """The sets of adapters whose blocks lie in a namespace under no salt, none included."""
        found: list[tuple[tuple[str, float], ...]] = [()]
        path = self.root / namespace.digest.hex()[:32]
        for name in _listed(path / SCOPES):
            with suppress(OSError, ValueError, TypeError, KeyError):
                fields = json.loads(_front(path / SCOPES / name, _MAX_ABOUT))
                if "salt" not in fields:
                    found.append(tuple((str(a), float(scale)) for a, scale in fields["adapters"]))
        return found

    def check(self, directory: Directory, *, deep: bool, repairs: bool) -> Checked:
        """See FileTier.check and repair. A namespace of which nothing is known has one problem."""
        try:
            tier = self._opened(directory)
        except DiskRefused as refusal:
            problems = [Problem(refusal.cause, ".")]
            return Checked(problems, problems, 0)
        if tier is None:
            problems = [Problem("unknown", _ABOUT)]
            return Checked(problems, problems, 0)
        try:
            problems = left = tier.check(deep=deep)
            if problems and repairs:
                tier.repair(problems)
                left = tier.check(deep=deep)
        finally:
            tier.close()
        return Checked(problems, left, tier.listed.leavings)

    # ---- deleting -----------------------------------------------------------------------------

    def delete(self, directory: Directory, patience: float = PATIENCE) -> bool:
        """Delete a namespace, pins included. False: it is in use, or cannot be deleted."""
        with suppress(OSError), ExitStack() as held:
            mark = take_alone(directory.path, patience)
            if mark is None:
                return False
            held.callback(os.close, mark)
            lock = os.open(directory.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            held.callback(os.close, lock)
            # Who is about to use it has listed it under this lock, and sees then that it went.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gone = self.root / f".gone-{os.urandom(8).hex()}"
            directory.path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            return True
        return False

    def sweep(self) -> None:
        """Empty what dead processes were deleting."""
        for name in _listed(self.root):
            if _GONE.fullmatch(name) and _is_ours(self.root / name):
                shutil.rmtree(self.root / name, ignore_errors=True)

    def prune(self, unused_seconds: float, *, but: Path | None = None) -> list[Directory]:
        """Delete what nobody used for so long; returns what went. Pinned ones stay."""
        oldest = time.time_ns() / 1e9 - unused_seconds
        found = [one for one in self.directories() if one.last_used < oldest and one.path != but]
        return [one for one in found if not one.num_pins and self.delete(one, 0.0)]

    def make_room(self, need_bytes: int, *, but: Path) -> list[Directory]:
        """Delete others until so much is free, the longest unused first; returns what went."""
        gone: list[Directory] = []
        for one in reversed(self.directories()):
            if sum(each.used_bytes for each in gone) >= need_bytes:
                break
            if one.path != but and not one.num_pins and self.delete(one, 0.0):
                gone.append(one)
        return gone

    def shrink(self, total_bytes: int) -> int:
        """Delete blocks until all namespaces together take no more; returns how many bytes went.

        Those of the longest unused namespace go first, in it those of least worth, leaves before
        what they hang on. What is pinned stays. Processes that use them miss them, no more.
        """
        before = used = self.used_bytes()
        for one in reversed(self.directories()):
            if used <= total_bytes:
                break
            if not (one.num_pins or one.used_bytes > used - total_bytes) and self.delete(one, 0.0):
                used -= one.used_bytes
                continue
            self._evict(one, used - total_bytes)
            used = self.used_bytes()
        return before - used

    def _evict(self, directory: Directory, need_bytes: int) -> None:
        with suppress(DiskRefused):
            tier = self._opened(directory)
            if tier is not None:
                tier.evict(need_bytes)
                tier.close()

    # ---- helpers ------------------------------------------------------------------------------

    def _opened(self, directory: Directory) -> HousedTier | None:
        """Its blocks; looking at them is no use of them. None: nobody knows whose they are.

        Raises DiskRefused.
        """
        namespace = self.namespace(directory)
        if namespace is None:
            return None
        # It has no budget, so that nothing is added; what it deletes need not be synced.
        tier = HousedTier(self.root, namespace, 0, is_durable=False, is_use=False)
        tier.open()
        return tier

    def _paths(self) -> list[Path]:
        paths = [self.root / name for name in _listed(self.root) if _NAME.fullmatch(name)]
        return [path for path in paths if _is_namespace(path)]

    def _directory(self, path: Path) -> Directory:
        times = [_modified(path / name) for name in (MARK, _USAGE, BLOCKS)]
        pins = len(_listed(path / PINS))
        return Directory(path, _used_bytes(path), max(times), is_used(path), pins)


class HousedTier(FileTier):
    """A directory of blocks that nobody deletes while it is open, within a budget for them all."""

    def __init__(
        self, root: Path, namespace: Namespace, total: int, *, is_durable: bool, is_use: bool = True
    ) -> None:
        """`total`: bytes for all namespaces below the root. `is_use`: opening it is a use."""
        self._limit = self._room = total
        super().__init__(root, namespace, total, is_durable=is_durable)
        self._house = House(root)
        self._total = total
        self._presence = Presence(counts=is_use)
        self.look_around()
        self.listed = Scan([], 0)
        """What was there when it was opened."""

    @property
    def budget(self) -> int:
        """Bytes for this directory: what it was set to, or what the others leave, if that is less.

        Reading it looks at no file.
        """
        return min(self._limit, self._room)

    @budget.setter
    def budget(self, nbytes: int) -> None:
        self._limit = nbytes

    def look_around(self) -> None:
        """See how much the others leave."""
        self._room = max(0, self._total - self._house.used_bytes(but=self.path))

    def open(self) -> Scan:
        """See FileTier.open."""
        for _ in range(_TRIES):
            try:
                self.listed = super().open()
            except DiskRefused as refusal:
                if refusal.cause != "vanished":
                    raise
            else:
                if self._presence.enter(self._folder.fd(TOP), self.path):
                    return self.listed
        self.close()
        raise DiskRefused("vanished", f"{self.path} is being deleted by others; try again")

    def close(self) -> None:
        """See FileTier.close."""
        self._presence.leave()
        super().close()

    def publish(self, blocks: Sequence[Block], *, evict: Sequence[Name] = ()) -> Published:
        """See FileTier.publish."""
        self.look_around()
        return super().publish(blocks, evict=evict)

    def evict(self, need_bytes: int) -> None:
        """Delete the blocks of least worth, leaves first, until so many bytes are free."""
        index, now = Index(), time.time_ns() / 1e9
        for name, nbytes in self.listed.entries:
            about = About(name.key, name.parent, name.kind, name.start, name.num_tokens)
            with suppress(ValueError):  # its name contradicts another one; `check` finds that
                index.add(Tier.DISK, about, nbytes, now=0.0, logits_bytes=name.logits_bytes)
        index.set_heats(self.load_usage(), now)
        for key in self.pins():
            index.pin(key)
        victims = index.victims(Tier.DISK, need_bytes)
        self.delete([name_of_node(node, Tier.DISK) for node in victims])


def lodge(root: Path, namespace: Namespace, total: int, *, is_durable: bool) -> HousedTier:
    """The directory of a namespace, not open, after those nobody uses have made room for it."""
    house, tier = House(root), HousedTier(root, namespace, total, is_durable=is_durable)
    house.sweep()
    house.prune(UNUSED_SECONDS, but=tier.path)
    tier.look_around()
    lacking = total // _LEAST_SHARE - tier.budget
    if lacking > 0 and house.make_room(lacking, but=tier.path):
        tier.look_around()
    return tier


def _used_bytes(path: Path) -> int:
    """What a namespace counts for; what its ledger says, where that can be trusted."""
    own = [path, *(path / part for part in PARTS)]
    directories = sum(about.st_blocks * 512 for each in own if (about := _about(each)))
    with suppress(OSError):
        record = parse_record(_front(path / LOCK, RECORD_BYTES))
        if record is not None and record.is_clean:
            return directories + record.used_bytes
    files = [each / name for each in own for name in _listed(each)]
    return directories + sum(weight(about) for each in files if (about := _about(each)))


def _is_namespace(path: Path) -> bool:
    return _is_ours(path) and all(_is_ours(path / part) for part in PARTS)


def _is_ours(path: Path) -> bool:
    about = _about(path)
    return about is not None and stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()


def _about(path: Path) -> os.stat_result | None:
    with suppress(OSError):
        return path.lstat()
    return None


def _modified(path: Path) -> float:
    about = _about(path)
    return about.st_mtime if about else 0.0


def _listed(path: Path) -> list[str]:
    """What lies in a directory; nothing, if it cannot be listed."""
    with suppress(OSError), os.scandir(path) as entries:
        return [entry.name for entry in entries]
    return []


def _front(path: Path, limit: int) -> bytes:
    """The first bytes of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)
