"""One account of what is left of something, and how the kernel's text becomes numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

_MOST_TEXT = 4 * 2**20  # of one file: mount tables of large hosts are long, nothing else is
_MOST_DIGITS = 20  # of 64 bits


class Resource(Enum):
    """What runs short."""

    MEMORY = "memory"
    """What this process may use of the machine's. The memory and shm tiers live here."""
    SHM = "shm"
    """The tmpfs of the shm tier."""
    DISK = "disk"
    """The file system of the disk tier."""
    DEVICE = "device"
    """Memory of a GPU. No tier lives there: a shortage is told, and nothing is shrunk for it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one account says of a resource, in bytes."""

    name: str
    """Whose account: the same in every sample."""
    resource: Resource
    free: int
    """What may still be used, what the kernel can take back without harm included."""
    total: int


Source = Callable[[], Reading | None]
"""Reads one account; None: not known now. Quick, since whoever samples waits for it."""


def read_text(path: Path) -> str | None:
    """A file of the kernel's; None where it is missing, forbidden or turned off."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_TEXT).decode("utf-8", "replace")
    except (OSError, ValueError):  # ValueError: a zero byte in a path out of another such file
        return None


def read_number(path: Path) -> int | None:
    """A file that holds one number; None for anything else, `max` included."""
    text = read_text(path)
    return None if text is None else number(text.strip())


def read_table(path: Path) -> dict[str, int]:
    """A file of names and numbers, one pair a line; kB become bytes, other lines are left out."""
    found = {}
    for line in (read_text(path) or "").splitlines():
        name, *words = line.split() or [""]
        value = number(words[0]) if words else None
        if value is not None:
            found[name.rstrip(":")] = value * (1024 if words[1:] == ["kB"] else 1)
    return found


def number(word: str) -> int | None:
    """An unsigned decimal number; None for anything else."""
    is_number = word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS
    return int(word) if is_number else None
