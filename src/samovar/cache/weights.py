"""The digest of a model's weights, read once per file and remembered.

The digest is SHA-256 over the contents of all files of a model, in order; for a model of one file
it is what `sha256sum` says. It is remembered by what the file system says of each file: device,
inode, size, time of the last change of the contents, and of the last change of anything. Contents
that were changed under an old time, as `cp --preserve` and `touch -r` do, are read again, since
nothing sets the last of them back. A file that was changed just before it was read is not
remembered: another change within the same tick of the file system's clock would leave no trace.

The memory is a file of its owner's alone. It is never more than a shortcut: one that is damaged,
that others may write to, or that cannot be written costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from samovar.errors import LoadFailed

_PIECE_BYTES = 8 * 2**20  # large enough for a disk's full speed, small beside any model
_TICK_NS = 2 * 10**9  # the coarsest clock of a file system that is met (FAT)
_MOST_REMEMBERED = 256  # models; the longest known go first
_MOST_MEMO_BYTES = 2**20  # what claims to be larger was not written here
_FORMAT = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger(__name__)


def weights_digest(
    paths: Sequence[Path], memo: Path, clock: Callable[[], int] = time.time_ns
) -> str:
    """SHA-256 in hex over the contents of the files of one model, in order.

    `memo` is the file that remembers, made where it is missing; `clock` tells nanoseconds since
    1970. Raises LoadFailed where a file cannot be read, or is changed while it is read.
    """
    began = clock()
    before = [_identity(path) for path in paths]
    key = " ".join(before)
    known = _recall(memo)
    if key in known:
        return known[key]
    digest = hashlib.sha256()
    for path, identity in zip(paths, before, strict=True):
        _read(path, digest)
        if _identity(path) != identity:
            raise LoadFailed(f"{path.name} was changed while it was read; load it again")
    found = digest.hexdigest()
    if began - max(map(_last_change, before), default=0) > _TICK_NS:
        _remember(memo, key, found)
    return found


def _identity(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    parts = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return ":".join(map(str, parts))


def _last_change(identity: str) -> int:
    *_, contents, anything = map(int, identity.split(":"))
    return max(contents, anything)


def _read(path: Path, digest: hashlib._Hash) -> None:
    piece = memoryview(bytearray(_PIECE_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(piece):
                digest.update(piece[:count])
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> LoadFailed:
    return LoadFailed(f"{path.name} cannot be read: {error.strerror or type(error).__name__}")


def _recall(memo: Path) -> dict[str, str]:
    """What is remembered, the longest known first. Empty where nothing can be trusted."""
    try:
        told = json.loads(_contents(memo))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(told, dict) or told.get("format") != _FORMAT:
        return {}
    models = told.get("models")
    if not isinstance(models, dict):
        return {}
    return {
        key: digest
        for key, digest in models.items()
        if isinstance(digest, str) and _DIGEST.fullmatch(digest)
    }


def _contents(memo: Path) -> bytes:
    """Raises OSError, also where somebody else may have written it."""
    # Not to wait where somebody has put a pipe.
    handle = os.open(memo, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(handle, "rb") as file:  # noqa: PTH123 - a descriptor
        stat = os.fstat(handle)
        if stat.st_uid != os.geteuid() or stat.st_mode & 0o022:
            raise PermissionError("others may write to it")
        return file.read(_MOST_MEMO_BYTES)


def _remember(memo: Path, key: str, digest: str) -> None:
    """Write it down, or do without. Of two who do so at once, one may be forgotten again."""
    known = {**_recall(memo), key: digest}
    kept = dict(list(known.items())[-_MOST_REMEMBERED:])
    try:
        memo.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _replacement(memo) as handle, open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump({"format": _FORMAT, "models": kept}, file, indent=1)
    except OSError as problem:
        logger.debug("the digest of the weights cannot be kept: %s", problem)


@contextlib.contextmanager
def _replacement(path: Path) -> Iterator[int]:
    """A new file, 0600, that takes the place of `path` at the end, or vanishes on an error."""
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        yield handle
        os.replace(name, path)  # noqa: PTH105 - the name came as a string
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
