"""The key of this installation that thinking is signed with: 32 random bytes in a file.

It lies beside the cache, and like the cache it outlives the server: a conversation goes on after a
restart. Where it cannot be kept safely, each server has a key of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
from pathlib import Path

from samovar.api.anthropic.signing import KEY_BYTES

logger = logging.getLogger(__name__)

_NAME = "thinking.key"


def signing_key(directory: Path) -> bytes:
    """The key in this directory, made if there is none; one for this process if that fails."""
    path = directory / _NAME
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.lexists(path):
            _make(path)
        return _read(path)
    except OSError as error:
        logger.warning("%s; thinking is signed for this run of the server only", error)
        return secrets.token_bytes(KEY_BYTES)


def _make(path: Path) -> None:
    """Under another name first, and whole: whoever finds the file finds all of it."""
    made = path.with_name(f".{_NAME}-{secrets.token_hex(8)}")
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another server was first
            os.link(made, path)
    finally:
        made.unlink()


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        is_private = stat.S_ISREG(about.st_mode) and not about.st_mode & 0o077
        if not is_private or about.st_uid != os.geteuid():
            raise PermissionError(f"{path} is not a file that only its owner can read")
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise OSError(f"{path} does not hold {KEY_BYTES} bytes; delete it")
    return key
