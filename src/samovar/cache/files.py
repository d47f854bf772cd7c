"""One directory of blocks, on disk or in a tmpfs, that several processes may use.

    ROOT/<first 32 hex digits of the namespace>/   0700, as all directories in it; files are 0600
        namespace.json     the namespace, readable
        scopes/HEX.json    the same for each set of adapters and salt whose blocks lie here
        lock               flock and ledger: who may change things, and how many bytes lie here
        blocks/            a file per block (`names`, `block`); complete from the moment it is seen
        tmp/               what the holder of the lock is writing; anything else in it is a leaving
        quarantine/        files that turned out bad, the last 64
        pins/HEX           an empty file per pinned key
        usage              decayed hit counts

Opening lists names and never reads a block. Blocks never change, so reading needs no lock;
publishing, deleting and everything else that changes the number of bytes hold it.

When a block is durable
-----------------------
A group is published in this order, under the lock, and a crash of the process after a step leaves:

    step                                            leaves
    1  the ledger is marked as being changed        nothing; who comes next counts again
    2  temporary files are created and written      leavings in tmp/, which who comes next removes
    3  each is synced (fdatasync)                   the same
    4  they are linked to their names, in order     complete blocks, none without its predecessor
    5  the directory is synced (fsync)              all of them, DURABLE
    6  temporary names are removed, the ledger      the same; leavings and count are put right by
       is written, the lock released                who comes next

`publish` returns after step 6. What it reports as done survives the loss of the process in any tier
and, where the tier is durable, the loss of power; steps 3 and 5 are left out where it is not. A
power failure between 4 and 5 leaves, of each block, all or nothing. Deletions are not synced: after
a power failure a deleted block may be there again, complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from samovar.cache.block import Block
from samovar.cache.io import Io
from samovar.cache.keys import Key, Namespace
from samovar.cache.names import Name


class DiskRefused(Exception):
    """A directory cannot be used: the tier is off. `cause` is one word, the message says more."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Missing(Exception):
    """A block cannot be had, now or ever. `cause` is one word: `vanished`, `locked`, `files`..."""

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
    """Names in `blocks/` that are no block's, and things that are no plain file of ours. They are
    left alone."""
    leavings: int = 0
    """Files of dead writers, and blocks that have since been saved with logits. They are gone."""


class Refusal(NamedTuple):
    """A block that was not published, and is not there because of this call."""

    block: Block
    cause: str
    """`budget`, `locked`, `parent` (the one before it was refused), `namespace` (its scope was
    never added), or what the operating system said: `space`, `quota`, `io`, `readonly`,
    `vanished`, `files`, or the errno's name."""


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a group."""

    done: list[Entry]
    """There now, and durable if the tier is; those that were there before are among them."""
    refused: list[Refusal]
    evicted: list[Name]
    """Those of `evict` that had to go (or had gone)."""
    written_bytes: int
    """Bytes of block files that were written, for the wear of flash; refused ones count too."""


class Problem(NamedTuple):
    """Something that `check` found."""

    kind: str
    """`contents`, `head`, `short`, `long`, `misplaced`, `namespace` (bad blocks); `foreign`,
    `owner`, `mode`, `leaving`, `superseded`, `total`, or what the operating system said."""
    where: str
    """Path below the directory."""


class FileTier:
    """The blocks of one model in one directory. For one thread; starts none.

          open()                    close()
    NEW ────────> OPEN (everything) ───────> CLOSED ──open()──> OPEN
             DiskRefused: still NEW

    No method raises OSError. Where the directory vanishes or the disk fails, `publish` refuses,
    `read` says Missing, and `open` may be tried again.
    """

    budget: int
    """Bytes; may be set at any time. What is there is not deleted for it, but nothing is added."""

    def __init__(
        self,
        root: Path,
        namespace: Namespace,
        budget: int,
        *,
        is_durable: bool,
        io: Io | None = None,
    ) -> None:
        """`budget` is in bytes, for everything in the directory; `is_durable`: sync."""
        raise NotImplementedError

    @property
    def path(self) -> Path:
        """The directory of this namespace."""
        raise NotImplementedError

    # ---- life ---------------------------------------------------------------------------------

    def open(self) -> Scan:
        """Make and check the directories, remove leavings, list the blocks.

        Raises DiskRefused for symlinks, what belongs to someone else, or cannot be made or read.
        Where another process keeps the lock, blocks are listed, but nothing is removed.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give the descriptors back. Idempotent; leases on nothing remain."""
        raise NotImplementedError

    def add_scope(self, namespace: Namespace) -> bool:
        """Let blocks of `namespace.under(...)` be published here; writes its readable form.

        False if it could not be written. Costs nothing the second time.
        """
        raise NotImplementedError

    # ---- blocks -------------------------------------------------------------------------------

    def publish(self, blocks: Sequence[Block], *, evict: Sequence[Name] = ()) -> Published:
        """Write a group; predecessors are put before their successors.

        Where the budget lacks room, blocks of `evict` are deleted in this order, under the same
        lock, no more than necessary. One that is refused refuses those of the group behind it.
        """
        raise NotImplementedError

    def read(self, name: Name, namespace: bytes, buffer: memoryview | None = None) -> Block:
        """A block, verified. `namespace` is the digest of its scope.

        Its contents are views of `buffer` if that is large enough, else of fresh memory. Raises
        Missing, or BadBlock for anything that is not the block: the file is in quarantine then.
        """
        raise NotImplementedError

    def find(self, names: Iterable[Name]) -> list[Entry]:
        """Those that are there: what another process published, without listing everything."""
        raise NotImplementedError

    def delete(self, names: Sequence[Name]) -> list[Name]:
        """Delete blocks; returns those that are not there any more (none if the lock is kept)."""
        raise NotImplementedError

    def rescan(self) -> Scan | None:
        """The blocks, if anyone else changed something since they were last listed, else None."""
        raise NotImplementedError

    def used_bytes(self) -> int:
        """What counts against the budget now, other processes included."""
        raise NotImplementedError

    # ---- what else is kept --------------------------------------------------------------------

    def pin(self, key: Key) -> bool:
        """Remember that a key is pinned. Idempotent; False if it could not be written."""
        raise NotImplementedError

    def unpin(self, key: Key) -> bool:
        """Forget a pin. Idempotent; False if that failed."""
        raise NotImplementedError

    def pins(self) -> set[Key]:
        """The pinned keys."""
        raise NotImplementedError

    def load_usage(self) -> dict[Key, tuple[float, float]]:
        """(heat, when) by key, as last saved; empty if there is none, or it is damaged."""
        raise NotImplementedError

    def save_usage(self, usage: Mapping[Key, tuple[float, float]]) -> bool:
        """Replace it as a whole; the last process to save wins. False if that failed."""
        raise NotImplementedError

    # ---- proof --------------------------------------------------------------------------------

    def check(self, *, deep: bool) -> list[Problem]:
        """What is wrong with names, kinds of files, owners, modes, sizes and the ledger.

        If `deep`, every block is read and verified. Changes nothing.
        """
        raise NotImplementedError

    def repair(self, problems: Iterable[Problem]) -> int:
        """Quarantine bad blocks, remove leavings, tighten modes, count again.

        Returns how many were put right. Foreign files are left alone.
        """
        raise NotImplementedError
