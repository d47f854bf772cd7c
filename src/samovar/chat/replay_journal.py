"""The file in which remembered turns outlive their process: records one behind the other.

    record:  8 bytes "SAMOTURN" | u32 length | 8 bytes XXH3-64 of the payload | payload (msgpack)

Little-endian. A payload begins with the namespace it belongs to. Records are only ever appended,
by any number of processes; what is damaged, cut off or of another namespace is passed over and
counted. When the file is larger than its budget, the newest half of it is written anew and takes
its place. A record that another process appends in that moment is lost, which costs a cache hit
and nothing else. Nothing waits for the disk but closing: after a power failure the last seconds
may be missing.

The file is 0600 and holds ids of generated tokens, which are as good as text.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import xxhash

FILE = "turns"
MAX_BYTES = 32 * 2**20
"""Some ten thousand turns; read within a fifth of a second when a model is loaded."""

_MAGIC = b"SAMOTURN"
_SIZE = 4
_HEAD = len(_MAGIC) + _SIZE + 8
_MAX_RECORD = 2**22  # bytes: a turn of a million tokens; a larger length is damage
_LEAVING_SECONDS = 3600.0  # far longer than writing a file of this size takes
_ORDER: Final = "little"


class TurnRecord(msgspec.Struct, frozen=True, tag="turn", array_like=True):
    """One turn (see replay_turns)."""

    namespace: bytes
    key: bytes
    tail: str
    ids: bytes


class PinRecord(msgspec.Struct, frozen=True, tag="pin", array_like=True):
    """Values that something volatile had first, and when: seconds since 1970."""

    namespace: bytes
    key: bytes
    values: tuple[str, ...]
    seconds: float


Record = TurnRecord | PinRecord

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


class Journal:
    """One such file. For one thread at a time. What goes wrong is counted, and not raised."""

    def __init__(self, folder: Path, namespace: bytes, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._namespace = namespace
        self._max_bytes = max_bytes
        self._fd: int | None = None
        self.num_damaged = 0
        self.num_foreign = 0
        self.num_failed = 0
        """Records that could not be written."""

    def read(self) -> list[Record]:
        """What is in the file, oldest first."""
        try:
            self._remove_leavings()
            data = self._contents()
        except OSError:
            self.num_failed += 1
            return []
        found: list[Record] = []
        for _, record in self._records(data):
            if record.namespace == self._namespace:
                found.append(record)
            else:
                self.num_foreign += 1
        return found

    def append(self, record: Record) -> None:
        """Write one record behind the others."""
        framed = _framed(record)
        if len(framed) > _MAX_RECORD:
            return
        try:
            fd = self._current()
            if os.fstat(fd).st_size + len(framed) > self._max_bytes:
                self._compact()
                fd = self._current()
            if os.write(fd, framed) != len(framed):
                self.num_failed += 1  # the half of it is passed over
        except OSError:
            self.num_failed += 1

    def close(self) -> None:
        """Have it all on the device, and let go of the file. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                os.fdatasync(fd)
            os.close(fd)

    # ---- the file -----------------------------------------------------------------------------

    def _current(self) -> int:
        """The file that has the name now: another process may have written it anew."""
        if self._fd is not None:
            with suppress(FileNotFoundError):
                named = (self._folder / FILE).lstat()
                if named.st_ino == os.fstat(self._fd).st_ino:
                    return self._fd
            os.close(self._fd)
            self._fd = None
        self._fd = self._opened(FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        return self._fd

    def _opened(self, name: str, flags: int) -> int:
        """A descriptor of a plain file of ours in a directory of ours: never through a symlink."""
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(folder).st_uid != os.geteuid():
                raise PermissionError(1, "the directory is somebody else's")
            safe = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            fd = os.open(name, flags | safe, 0o600, dir_fd=folder)
        finally:
            os.close(folder)
        about = os.fstat(fd)
        if stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid():
            if stat.S_IMODE(about.st_mode) != 0o600:
                os.fchmod(fd, 0o600)
            return fd
        os.close(fd)
        raise PermissionError(1, "the file is none of ours")

    def _contents(self) -> bytes:
        fd = self._current()
        size = min(os.fstat(fd).st_size, 2 * self._max_bytes)
        pieces, done = [], 0
        while done < size and (piece := os.pread(fd, size - done, done)):
            pieces.append(piece)
            done += len(piece)
        return b"".join(pieces)

    def _records(self, data: bytes) -> Iterator[tuple[bytes, Record]]:
        """Every sound record, framed and as such."""
        at = 0
        while (start := data.find(_MAGIC, at)) >= 0:
            if start > at:
                self.num_damaged += 1
            end = _end(data, start)
            record = _decoded(data[start + _HEAD : end]) if end else None
            if record is None:
                self.num_damaged += 1
                at = data.find(_MAGIC, start + 1)
                if at < 0:
                    return
                continue
            yield data[start:end], record
            at = end
        if at < len(data):
            self.num_damaged += 1

    def _compact(self) -> None:
        """Keep the newest half of the budget."""
        kept: list[bytes] = []
        size = 0
        for framed, record in reversed(list(self._records(self._contents()))):
            size += len(framed)
            if size > self._max_bytes // 2:
                break
            if record.namespace == self._namespace:
                kept.append(framed)
        self._replace(kept[::-1])

    def _remove_leavings(self) -> None:
        """Of processes that died while they wrote the file anew."""
        oldest = time.time_ns() / 1e9 - _LEAVING_SECONDS
        for path in self._folder.glob(f".{FILE}-*"):
            with suppress(OSError):
                if path.lstat().st_mtime < oldest:
                    path.unlink()

    def _replace(self, framed: Sequence[bytes]) -> None:
        name = f".{FILE}-{os.urandom(8).hex()}"
        fd = self._opened(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        path = self._folder / name
        try:
            with os.fdopen(fd, "wb") as file:
                file.writelines(framed)
                file.flush()
                os.fdatasync(file.fileno())
            path.replace(self._folder / FILE)
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise


def _framed(record: Record) -> bytes:
    payload = _ENCODER.encode(record)
    length = len(payload).to_bytes(_SIZE, _ORDER)
    return _MAGIC + length + xxhash.xxh3_64_digest(payload) + payload


def _end(data: bytes, start: int) -> int:
    """Where a record ends that is whole and sound; 0: it is not."""
    begin = start + _HEAD
    length = int.from_bytes(data[start + len(_MAGIC) : start + len(_MAGIC) + _SIZE], _ORDER)
    end = begin + length
    if length > _MAX_RECORD or end > len(data):
        return 0
    is_sound = xxhash.xxh3_64_digest(data[begin:end]) == data[begin - 8 : begin]
    return end if is_sound else 0


def _decoded(payload: bytes) -> Record | None:
    try:
        return _DECODER.decode(payload)
    except msgspec.MsgspecError:
        return None
