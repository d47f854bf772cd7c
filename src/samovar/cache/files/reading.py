"""A block out of its file: everything is checked before it is believed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np

from samovar.cache.block import (
    BadBlock,
    Block,
    Head,
    check_apart,
    head_bytes,
    parse_block,
    parse_head,
)
from samovar.cache.files.folder import BLOCKS, Folder
from samovar.cache.files.io import cause_of
from samovar.cache.files.names import Name, name_of
from samovar.cache.files.outcomes import Missing

_PIECES_AT_ONCE = 1024  # IOV_MAX: more of them in one call are refused

Space = Callable[[int], memoryview]
"""Where so many bytes may be put, whatever is there. Raises MemoryError."""


def read_block(
    folder: Folder, name: Name, namespace: bytes | None, space: Space | None = None
) -> Block:
    """The block of this name; `namespace` None takes its word for it. Raises Missing, BadBlock."""
    with _opened(folder, name) as (fd, size):
        front, _ = _front(folder, fd, name, size)
        data = _taken(space or _fresh, size)
        data[: len(front)] = front
        _fill(folder, fd, [data[len(front) :]], len(front))
    return parse_block(data, name.kind, name.key, namespace)


def read_apart(
    folder: Folder, name: Name, namespace: bytes, places: Sequence[np.ndarray]
) -> Head | None:
    """Read the payload of a block without logits into places that follow each other in it.

    None: it is of another size than they are, and nothing was read. What they hold when this
    raises is nobody's. Raises Missing, BadBlock.
    """
    payload = [place.data for place in places]
    with _opened(folder, name) as (fd, size):
        front, head = _front(folder, fd, name, size)
        if head.logits_bytes or head.payload_bytes != sum(piece.nbytes for piece in payload):
            return None
        _fill(folder, fd, payload, len(front))
    return check_apart(front, payload, name.kind, name.key, namespace)


def gather(head: Head, places: Sequence[np.ndarray], space: Space) -> Block:
    """A copy of what was read apart, as one block. Raises Missing."""
    payload = _taken(space, head.payload_bytes)
    np.concatenate(places, out=np.frombuffer(payload, np.uint8))
    return Block(head, payload, memoryview(b""))


def read_head(folder: Folder, name: Name) -> Head:
    """The head of a block whose name and size are right. Raises Missing, BadBlock."""
    with _opened(folder, name) as (fd, size):
        return _front(folder, fd, name, size)[1]


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


def _front(folder: Folder, fd: int, name: Name, size: int) -> tuple[memoryview, Head]:
    """What stands before the payload. It proves the size, before memory is taken for it."""
    front = memoryview(bytearray(min(head_bytes(name.num_tokens), size)))
    _fill(folder, fd, [front], 0)
    head = parse_head(front)
    if name_of(head) != name:
        raise BadBlock("misplaced")
    if head.size != size:
        raise BadBlock("short" if size < head.size else "long")
    return front, head


def _taken(space: Space, nbytes: int) -> memoryview:
    try:
        return space(nbytes)
    except MemoryError:
        raise Missing("memory") from None


def _fresh(nbytes: int) -> memoryview:
    return np.empty(nbytes, np.uint8).data  # a bytearray would be filled with zeros first


def _fill(folder: Folder, fd: int, pieces: Sequence[memoryview], offset: int) -> None:
    """Read what the file has from `offset` on into pieces, one after the other."""
    left = [piece for piece in pieces if piece.nbytes]
    while left:
        count = folder.io.preadv(fd, left[:_PIECES_AT_ONCE], offset)
        if not count:
            raise BadBlock("short")
        offset += count
        left = _rest(left, count)


def _rest(pieces: list[memoryview], count: int) -> list[memoryview]:
    """The pieces without their first `count` bytes."""
    done = 0
    while done < len(pieces) and count >= pieces[done].nbytes:
        count -= pieces[done].nbytes
        done += 1
    rest = pieces[done:]
    if count:
        rest[0] = rest[0][count:]
    return rest


def _failure(error: OSError) -> Missing | BadBlock:
    cause = cause_of(error)
    # A symlink or a socket in its place, or a device that cannot read it: it will not get better.
    return BadBlock(cause) if cause in ("symlink", "enxio", "io") else Missing(cause)
