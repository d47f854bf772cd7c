"""What comes of using a directory of blocks: the nouns of `files` and the modules behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from samovar.cache.block import Block
from samovar.cache.files.names import Name


class DiskRefused(Exception):
    """A directory cannot be used: the tier is off. `cause` is one word, the message says more."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Missing(Exception):
    """A block cannot be had, now or ever. `cause` is one word: `vanished`, `files`, `memory`..."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Entry(NamedTuple):
    """A block that is there."""

    name: Name
    nbytes: int
    """What it takes of the budget: whole pages."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What lies in a directory."""

    entries: list[Entry]
    """In no order; no two of the same key and kind."""
    used_bytes: int
    """What counts against the budget, entries included."""
    foreign: int = 0
    """What in `blocks/` has no block's name, or is no plain file of ours: it is left alone."""
    leavings: int = 0
    """Files of dead writers, and blocks since saved with logits, that were removed."""


class Refusal(NamedTuple):
    """A block that was not published; if it is there, nothing is promised of it."""

    block: Block
    cause: str
    """`budget`, `locked`, `parent` (the one before it was refused), `namespace` (its scope was
    never added), `closed`, or what the operating system said: `space`, `quota`, `io`, `readonly`,
    `vanished`, `files`, or the errno's name."""


@dataclass(slots=True)
class Published:
    """What became of a group."""

    done: list[Entry]
    """There now, and durable if the tier is; those that were there before are among them."""
    refused: list[Refusal]
    evicted: list[Name]
    """Those of `evict` that had to go, or had gone."""
    written_bytes: int = 0
    """Bytes of block files that were written, for the wear of flash; refused ones count too."""


class Problem(NamedTuple):
    """Something that `check` found."""

    kind: str
    """`contents`, `head`, `short`, `long`, `misplaced`, `namespace`, `io` (bad blocks); `foreign`,
    `mode`, `leaving`, `superseded`, `total`, or what the operating system said."""
    where: str
    """Path below the directory."""
