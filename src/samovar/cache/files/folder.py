"""The directory of one namespace and those in it, opened so that nothing can be put in their place.

All of them are 0700 and belong to who runs this. They are opened once and used by descriptor:
neither a symlink nor another directory that takes their name later is ever written to.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from samovar.cache.files.io import Io, cause_of
from samovar.cache.files.outcomes import DiskRefused

PAGE = 4096

BLOCKS, TMP, QUARANTINE, PINS, SCOPES = PARTS = ("blocks", "tmp", "quarantine", "pins", "scopes")
TOP = "."
"""The directory itself, among its parts."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def weight(about: os.stat_result) -> int:
    """Bytes that a file counts for: what it takes, at least its size in whole pages.

    Directories count for nothing here: they are looked at when it matters, since they only grow.
    """
    if stat.S_ISDIR(about.st_mode):
        return 0
    # Both, since some file systems say late, or compressed, what a file takes.
    return max(about.st_blocks * 512, -(-about.st_size // PAGE) * PAGE)


def is_ours(about: os.stat_result) -> bool:
    """Whether it is a plain file of who runs this."""
    return stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid()


class Folder:
    """The open directories. Not thread-safe. Everything but `open` raises OSError."""

    def __init__(self, io: Io, path: Path, *, is_durable: bool) -> None:
        self.io = io
        self.path = path
        self.is_durable = is_durable
        self.has_leavings = False
        """Whether a temporary file could not be removed: whoever has the lock next must try."""
        self._fds: dict[str, int] = {}

    @property
    def is_open(self) -> bool:
        """Whether the descriptors are there."""
        return bool(self._fds)

    def open(self) -> None:
        """Make what is missing, check the rest. Raises DiskRefused, and then nothing is open."""
        self.close()
        try:
            self._open()
        except OSError as error:
            self.close()
            raise self._refusal(error) from None
        except DiskRefused:
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptors back. Idempotent."""
        while self._fds:
            with suppress(OSError):
                self.io.close(self._fds.popitem()[1])

    def fd(self, part: str) -> int:
        """The descriptor of a part. OSError (EBADF) if it is closed."""
        if part not in self._fds:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._fds[part]

    def names(self, part: str) -> list[str]:
        """What lies in a part."""
        with self.io.scandir(self.fd(part)) as entries:
            return [entry.name for entry in entries]

    def directory_bytes(self) -> int:
        """What the directories themselves take: with many long names, megabytes."""
        return sum(self.io.fstat(fd).st_blocks * 512 for fd in self._fds.values())

    def sync(self, part: str) -> None:
        """Wait until the names in a part are on the device, if this is durable."""
        if self.is_durable:
            self.io.fsync(self.fd(part))

    # ---- files --------------------------------------------------------------------------------

    def create(self, pieces: Sequence[bytes | memoryview]) -> tuple[str, int]:
        """A new file in `tmp/` with this in it: its name and its open descriptor, not synced.

        The lock is held. When this raises, no file is left, unless `has_leavings` says so.
        """
        name = os.urandom(8).hex()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        fd = self.io.open(name, flags, at=self.fd(TMP))
        try:
            self._write(fd, pieces)
        except OSError:
            with suppress(OSError):
                self.io.close(fd)
            self.discard(name)
            raise
        return name, fd

    def discard(self, temporary: str) -> None:
        """Remove the name of a file that `create` made."""
        try:
            self.io.unlink(temporary, at=self.fd(TMP))
        except OSError:
            self.has_leavings = True

    def replace(self, part: str, name: str, data: bytes) -> None:
        """Make a small file of this, as a whole or not at all. The lock is held."""
        temporary, fd = self.create([data])
        try:
            if self.is_durable:
                self.io.fdatasync(fd)
            self.io.rename(temporary, name, at=self.fd(TMP), to=self.fd(part))
        except OSError:
            self.discard(temporary)
            raise
        finally:
            self.io.close(fd)
        self.sync(part)

    def contents(self, part: str, name: str, limit: int) -> bytes:
        """A small file; no more than `limit` bytes of it. Files of others count as missing."""
        fd = self.io.open(name, os.O_RDONLY, at=self.fd(part))
        try:
            about = self.io.fstat(fd)
            if not is_ours(about):
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            data = bytearray(min(about.st_size, limit))
            done = 0
            while done < len(data):
                count = self.io.preadv(fd, [memoryview(data)[done:]], done)
                if not count:
                    break
                done += count
            return bytes(data[:done])
        finally:
            self.io.close(fd)

    def _write(self, fd: int, pieces: Sequence[bytes | memoryview]) -> None:
        left = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
        while left:
            count = self.io.writev(fd, left)
            if not count:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            while left and count >= len(left[0]):
                count -= len(left.pop(0))
            if count:
                left[0] = left[0][count:]

    # ---- directories --------------------------------------------------------------------------

    def _open(self) -> None:
        self._make(self.path.parent)
        root = self.io.open(str(self.path.parent), _DIRECTORY)
        try:
            self._check(root, self.path.parent, may_be_roots=True)
            self._enter(TOP, self.path, root, self.path.name)
        finally:
            self.io.close(root)
        for part in PARTS:
            self._enter(part, self.path / part, self.fd(TOP), part)

    def _make(self, path: Path) -> None:
        """A directory at a path, with those above it."""
        with suppress(FileExistsError):
            try:
                self.io.mkdir(str(path))
            except FileNotFoundError:
                self._make(path.parent)
                self.io.mkdir(str(path))
            self._sync_path(path.parent)

    def _sync_path(self, path: Path) -> None:
        if self.is_durable:
            fd = self.io.open(str(path), _DIRECTORY)
            try:
                self.io.fsync(fd)
            finally:
                self.io.close(fd)

    def _enter(self, part: str, path: Path, above: int, name: str) -> None:
        """Open a directory in another, made if it is missing."""
        with suppress(FileExistsError):
            self.io.mkdir(name, at=above)
            if self.is_durable:
                self.io.fsync(above)
        try:
            self._fds[part] = self.io.open(name, _DIRECTORY, at=above)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise DiskRefused(
                    "symlink", f"{path} is a symlink or no directory; remove it"
                ) from None
            raise
        self._check(self._fds[part], path)

    def _check(self, fd: int, path: Path, *, may_be_roots: bool = False) -> None:
        about = self.io.fstat(fd)
        if about.st_uid not in ((os.geteuid(), 0) if may_be_roots else (os.geteuid(),)):
            raise DiskRefused(
                "owner", f"{path} belongs to user {about.st_uid}, not to who runs this"
            )
        if not may_be_roots and stat.S_IMODE(about.st_mode) != 0o700:
            self.io.fchmod(fd, 0o700)

    def _refusal(self, error: OSError) -> DiskRefused:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return DiskRefused("symlink", f"{self.path.parent} is a symlink or no directory")
        return DiskRefused(cause_of(error), f"{self.path} cannot be used: {error.strerror}")
