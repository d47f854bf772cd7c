"""A block out of its file: everything is checked before it is believed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np

from samovar.cache.block import BadBlock, Block, Head, head_bytes, parse_block, parse_head
from samovar.cache.files.folder import BLOCKS, Folder
from samovar.cache.files.io import cause_of
from samovar.cache.files.names import Name, name_of
from samovar.cache.files.outcomes import Missing

_AT_ONCE = 2**30  # the system reads no more than 2 GiB in one call

Space = Callable[[int], memoryview]
"""Where so many bytes may be put, whatever is there. Raises MemoryError."""


def read_block(
    folder: Folder, name: Name, namespace: bytes | None, space: Space | None = None
) -> Block:
    """The block of this name; `namespace` None takes its word for it. Raises Missing, BadBlock."""
    with _opened(folder, name) as (fd, size):
        front = _front(folder, fd, name, size)
        try:
            data = (space or _fresh)(size)
        except MemoryError:
            raise Missing("memory") from None
        data[: len(front)] = front
        _fill(folder, fd, data, len(front))
    return parse_block(data, name.kind, name.key, namespace)


def read_head(folder: Folder, name: Name) -> Head:
    """The head of a block whose name and size are right. Raises Missing, BadBlock."""
    with _opened(folder, name) as (fd, size):
        return parse_head(_front(folder, fd, name, size))


@contextmanager
def _opened(folder: Folder, name: Name) -> Iterator[tuple[int, int]]:
    """The descriptor and size of a file of ours."""
    try:
        fd = folder.io.open(str(name), os.O_RDONLY, at=folder.fd(BLOCKS))
    except OSError as error:
        raise _failure(error) from None
    try:
        about = folder.io.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise BadBlock("foreign")
        if about.st_uid != os.geteuid():
            raise BadBlock("owner")
        yield fd, about.st_size
    except OSError as error:
        raise _failure(error) from None
    finally:
        with suppress(OSError):  # it was open for reading; nothing is lost
            folder.io.close(fd)


def _front(folder: Folder, fd: int, name: Name, size: int) -> memoryview:
    """What stands before the payload. It proves the size, before memory is taken for it."""
    front = memoryview(bytearray(min(head_bytes(name.num_tokens), size)))
    _fill(folder, fd, front, 0)
    head = parse_head(front)
    if name_of(head) != name:
        raise BadBlock("misplaced")
    if head.size != size:
        raise BadBlock("short" if size < head.size else "long")
    return front


def _fresh(nbytes: int) -> memoryview:
    return np.empty(nbytes, np.uint8).data  # a bytearray would be filled with zeros first


def _fill(folder: Folder, fd: int, data: memoryview, done: int) -> None:
    """Read what is missing from `done` on."""
    while done < len(data):
        count = folder.io.preadv(fd, data[done : done + _AT_ONCE], done)
        if not count:
            raise BadBlock("short")
        done += count


def _failure(error: OSError) -> Missing | BadBlock:
    cause = cause_of(error)
    # A symlink or a socket in its place, or a device that cannot read it: it will not get better.
    return BadBlock(cause) if cause in ("symlink", "enxio", "io") else Missing(cause)
