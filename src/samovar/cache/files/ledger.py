"""Who may change a directory, and how many bytes lie in it: one file for both.

The file `lock` is locked (flock) by whoever publishes or deletes, for one group; the system takes
the lock back from a process that dies. In it stands, little-endian:

    offset  bytes
         0      8  "SAMOLED1"
         8      8  generation: grows whenever someone changed something
        16      8  bytes of all files in the directory, without what directories take
        24      1  1 if the holder finished, 0 while it is changing things
        25      7  zeros
        32      8  XXH3-64 of everything before it

An empty file `turn` is locked while one waits for `lock`, and let go with it in hand. So whoever
has just given the lock back does not get it again before the one that waits, which would otherwise
look for it in vain: those who want it try again and again, since a wait with a deadline that sleeps
would need a thread of its own.

Whoever gets the lock and finds 0, or no such record, knows that the last holder died: its
temporary files are leavings, and the bytes must be counted again. The record is never synced. After
a power failure it may be an older one, which is why opening a directory always counts.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import xxhash

from samovar.cache.files.folder import BLOCKS, TOP, Folder, is_ours

LOCK, TURN = "lock", "turn"
PATIENCE = 5.0
"""Seconds that the lock is waited for: many times what a group takes on a slow disk."""

_AGAIN = 0.002  # seconds between two tries
_MAGIC = b"SAMOLED1"
_RECORD = struct.Struct("<8sQQB7x")
RECORD_BYTES = _RECORD.size + 8


class Locked(Exception):
    """Another process kept the lock for too long."""


class Record(NamedTuple):
    """What the file says."""

    generation: int
    used_bytes: int
    is_clean: bool


def parse_record(data: bytes) -> Record | None:
    """What the contents of the file say; None: nothing that can be trusted."""
    if len(data) != RECORD_BYTES or data[_RECORD.size :] != xxhash.xxh3_64_digest(
        data[: _RECORD.size]
    ):
        return None
    magic, generation, used, is_clean = _RECORD.unpack_from(data)
    return Record(generation, used, bool(is_clean)) if magic == _MAGIC else None


class Account:
    """The bytes of a directory, for as long as the lock is held."""

    def __init__(self, used_bytes: int) -> None:
        self.used_bytes = used_bytes
        """Of files: without what directories take."""
        self.has_changed = False
        """Whether blocks came or went, for others to look."""
        self.is_sound = True
        """False when something went wrong, so that whoever comes next must look and count."""


def _unseen_generation() -> int:
    """Where a new ledger begins: not where a lost one may have been."""
    return int.from_bytes(os.urandom(4))


class Ledger:
    """The lock of an open folder. Not thread-safe; two of them exclude each other."""

    def __init__(self, folder: Folder, recover: Callable[[], int]) -> None:
        """`recover` removes leavings and counts; it is called with the lock held."""
        self._folder = folder
        self._io = folder.io
        self._recover = recover
        self._fd: int | None = None
        self._turn: int | None = None
        self.seen: tuple[int, int] | None = None
        """The state of the directory that its owner knows; see `state`."""

    def close(self) -> None:
        """Give the descriptors back. Idempotent."""
        for fd in (self._fd, self._turn):
            if fd is not None:
                self._close(fd)
        self._fd = self._turn = None

    @contextmanager
    def locked(self, patience: float = PATIENCE) -> Iterator[Record | None]:
        """Hold the lock only to look: the record as it stands. Raises Locked, OSError."""
        self._lock(patience)
        try:
            yield self._read()
        finally:
            self._fd = self._unlocked(self._fd)

    @contextmanager
    def held(self, *, patience: float = PATIENCE, lists: bool = False) -> Iterator[Account]:
        """Hold the lock; what is done to the account is written when this ends.

        `lists` recovers in any case, and the owner knows afterwards what is there. Raises Locked,
        and OSError where the lock or the record fails. When the body raises, whoever comes next
        recovers.
        """
        with self.locked(patience) as found:
            before = found or Record(_unseen_generation(), 0, is_clean=False)
            was_seen = before.is_clean and self._state(before.generation) == self.seen
            # The generation grows at the end: who lists meanwhile must list again.
            self._write(Record(before.generation, before.used_bytes, is_clean=False))
            account = Account(before.used_bytes)
            if lists or not before.is_clean:
                self._folder.has_leavings = False
                account.used_bytes = self._recover()
                account.has_changed = not before.is_clean
            yield account
            after = Record(
                before.generation + account.has_changed,
                max(account.used_bytes, 0),
                account.is_sound and not self._folder.has_leavings,
            )
            self._write(after)
            if lists or was_seen:
                self.seen = self._state(after.generation)

    def peek(self) -> Record | None:
        """The record as it stands, without the lock. None if there is none to be had."""
        try:
            if self._fd is None:
                self._fd = self._opened(LOCK)
            return self._read()
        except OSError:
            return None

    def state(self) -> tuple[int, int] | None:
        """What differs after anyone has changed the blocks: generation, and time of `blocks/`."""
        record = self.peek()
        try:
            return self._state(record.generation if record else 0)
        except OSError:
            return None

    def _state(self, generation: int) -> tuple[int, int]:
        return generation, self._io.fstat(self._folder.fd(BLOCKS)).st_mtime_ns

    # ---- the lock -----------------------------------------------------------------------------

    def _lock(self, patience: float) -> None:
        end = self._io.now() + patience
        if self._turn is None:
            self._turn = self._opened(TURN)
        self._wait(self._turn, end)
        try:
            while True:
                if self._fd is None:
                    self._fd = self._opened(LOCK)
                self._wait(self._fd, end)
                if self._is_current(self._fd):
                    return
                # Someone removed the file: a lock on it excludes nobody.
                self._close(self._fd)
                self._fd = None
        finally:
            self._turn = self._unlocked(self._turn)

    def _wait(self, fd: int, end: float) -> None:
        while not self._io.try_lock(fd):
            if self._io.now() >= end:
                raise Locked
            self._io.pause(_AGAIN)

    def _unlocked(self, fd: int | None) -> int | None:
        """The descriptor, if it could be unlocked, else None: closing it unlocks it as well."""
        if fd is not None:
            try:
                self._io.unlock(fd)
            except OSError:
                self._close(fd)
                return None
        return fd

    def _close(self, fd: int) -> None:
        with suppress(OSError):
            self._io.close(fd)

    def _opened(self, name: str) -> int:
        fd = self._io.open(name, os.O_RDWR | os.O_CREAT, at=self._folder.fd(TOP))
        try:
            if not is_ours(self._io.fstat(fd)):
                raise PermissionError(1, "the lock is no file of ours")
        except OSError:
            self._close(fd)
            raise
        return fd

    def _is_current(self, fd: int) -> bool:
        try:
            named = self._io.stat(LOCK, at=self._folder.fd(TOP))
            return named.st_ino == self._io.fstat(fd).st_ino
        except FileNotFoundError:
            return False
        except OSError:
            self._close(fd)  # which unlocks it
            self._fd = None
            raise

    # ---- the record ---------------------------------------------------------------------------

    def _read(self) -> Record | None:
        if self._fd is None:
            return None
        data = bytearray(RECORD_BYTES)
        count = self._io.preadv(self._fd, [memoryview(data)], 0)
        return parse_record(bytes(data[:count]))

    def _write(self, record: Record) -> None:
        if self._fd is None:
            return
        data = _RECORD.pack(_MAGIC, record.generation, record.used_bytes, record.is_clean)
        data += xxhash.xxh3_64_digest(data)
        if self._io.pwrite(self._fd, data, 0) != len(data):
            raise OSError(5, "the ledger was not written")
