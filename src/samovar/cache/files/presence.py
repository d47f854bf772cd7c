"""Who uses a directory of blocks, and when it was last used: one empty file, `used`.

Whoever has the directory open holds a lock on the file that several can share, and sets its time
when it comes and goes, so that a hit costs no write. Whoever deletes the directory holds the lock
alone. The system takes locks back from processes that die.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

MARK = "used"
PATIENCE = 0.5
"""Seconds in which who only looks has gone again."""

_AGAIN = 0.005  # seconds between two tries
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Presence:
    """The lock of one process on one directory."""

    def __init__(self, *, counts: bool = True) -> None:
        """`counts`: being there is a use, and sets the time."""
        self._counts = counts
        self._fd: int | None = None

    def enter(self, top: int, path: Path) -> bool:
        """Share the directory that is open as `top`. False: `path` is not it any more.

        Where the file cannot be made or locked, nobody else can delete anything either, and it is
        as if it were.
        """
        self.leave()
        with suppress(OSError):
            self._fd = os.open(MARK, _FLAGS | os.O_CREAT, 0o600, dir_fd=top)
            _lock(self._fd, fcntl.LOCK_SH, PATIENCE)
            self._touch()
        try:
            return os.path.samestat(os.fstat(top), os.lstat(path))
        except OSError:
            return False

    def leave(self) -> None:
        """Give it back. Idempotent."""
        if self._fd is not None:
            self._touch()
            os.close(self._fd)
            self._fd = None

    def _touch(self) -> None:
        if self._counts and self._fd is not None:
            with suppress(OSError):
                os.utime(self._fd)


def take_alone(path: Path, patience: float) -> int | None:
    """The descriptor of a lock that nobody shares, or None if the directory is in use.

    Closing it gives the lock back. Raises OSError.
    """
    fd = os.open(path / MARK, _FLAGS | os.O_CREAT, 0o600)
    if _lock(fd, fcntl.LOCK_EX, patience):
        return fd
    os.close(fd)
    return None


def is_used(path: Path) -> bool:
    """Whether any process has the directory open."""
    try:
        fd = os.open(path / MARK, _FLAGS)
    except OSError:
        return False
    try:
        return not _lock(fd, fcntl.LOCK_EX, 0.0)
    finally:
        os.close(fd)


def _lock(fd: int, how: int, patience: float) -> bool:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_AGAIN)
        else:
            return True
