"""The calls to the operating system that a file tier makes: tests hand in others, which fail."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_CAUSES = {
    errno.ENOSPC: "space",
    errno.EDQUOT: "quota",
    errno.EFBIG: "quota",
    errno.EIO: "io",
    errno.EROFS: "readonly",
    errno.EACCES: "readonly",
    errno.EPERM: "readonly",
    errno.ENOENT: "vanished",
    errno.ENOTDIR: "vanished",
    errno.ESTALE: "vanished",
    errno.EMFILE: "files",
    errno.ENFILE: "files",
    errno.ENOMEM: "memory",
    errno.ELOOP: "symlink",
    errno.EBADF: "closed",
}


def cause_of(error: OSError) -> str:
    """One word for the counters."""
    number = error.errno or 0
    return _CAUSES.get(number) or errno.errorcode.get(number, "unknown").lower()


class Io:
    """The real ones. Names are below a directory that is open, except where a path is said.

    All raise OSError.
    """

    def open(self, name: str, flags: int, *, at: int | None = None) -> int:
        """A descriptor; new files are 0600. Symlinks are never followed, nor FIFOs waited for."""
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600, dir_fd=at)

    def close(self, fd: int) -> None:
        """Give a descriptor back."""
        os.close(fd)

    def mkdir(self, name: str, *, at: int | None = None) -> None:
        """A directory, 0700."""
        os.mkdir(name, 0o700, dir_fd=at)

    def writev(self, fd: int, pieces: Sequence[bytes | memoryview]) -> int:
        """Append some of the pieces; returns how many bytes."""
        return os.writev(fd, pieces)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write some of the data at an offset; returns how many bytes."""
        return os.pwrite(fd, data, offset)

    def preadv(self, fd: int, pieces: Sequence[memoryview], offset: int) -> int:
        """Read into pieces, one after the other; returns how many bytes, 0 at the file's end."""
        return os.preadv(fd, pieces, offset)

    def start_writing(self, fd: int) -> None:
        """Have the kernel write back what was written, without waiting for it."""
        # Not to drop the pages: those that are dirty or being written stay where they are.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def fdatasync(self, fd: int) -> None:
        """Wait until contents and size are on the device. Several threads do, at the same time."""
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """The same for a directory: its names."""
        os.fsync(fd)

    def link(self, name: str, new: str, *, at: int, to: int) -> None:
        """A second name; FileExistsError if it is taken."""
        os.link(name, new, src_dir_fd=at, dst_dir_fd=to, follow_symlinks=False)

    def rename(self, name: str, new: str, *, at: int, to: int) -> None:
        """Another name; what has it is replaced."""
        os.rename(name, new, src_dir_fd=at, dst_dir_fd=to)

    def unlink(self, name: str, *, at: int) -> None:
        """Remove a name."""
        os.unlink(name, dir_fd=at)

    def stat(self, name: str, *, at: int) -> os.stat_result:
        """About a name, not about what a symlink points to."""
        return os.stat(name, dir_fd=at, follow_symlinks=False)

    def fstat(self, fd: int) -> os.stat_result:
        """About an open file or directory."""
        return os.fstat(fd)

    def fchmod(self, fd: int, mode: int) -> None:
        """Change permissions."""
        os.fchmod(fd, mode)

    @contextmanager
    def scandir(self, fd: int) -> Iterator[Iterator[os.DirEntry[str]]]:
        """The entries of a directory."""
        with os.scandir(fd) as entries:
            yield entries

    def now(self) -> float:
        """Seconds of a clock that only goes forward."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Let others run."""
        time.sleep(seconds)

    def try_lock(self, fd: int) -> bool:
        """Take the lock on an open file, if nobody has it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, fd: int) -> None:
        """Give it back."""
        fcntl.flock(fd, fcntl.LOCK_UN)
