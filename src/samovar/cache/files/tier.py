"""One directory of blocks, on disk or in a tmpfs, that several processes may use.

    ROOT/<first 32 hex digits of the namespace>/   0700, as all directories in it; files are 0600
        namespace.json     the namespace, readable
        scopes/HEX.json    the same for each set of adapters and salt whose blocks lie here
        lock, turn         who may change things, and how many bytes lie here (`ledger`)
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
    3  they are synced (fdatasync)                  the same
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

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from samovar.cache.block import BadBlock, Block, Head
from samovar.cache.files import checking, quarantine
from samovar.cache.files.buffers import Buffers
from samovar.cache.files.folder import BLOCKS, PAGE, PINS, SCOPES, TOP, Folder, is_ours, weight
from samovar.cache.files.io import Io, cause_of
from samovar.cache.files.ledger import Account, Ledger, Locked
from samovar.cache.files.names import Name, name_of
from samovar.cache.files.outcomes import (
    DiskRefused,
    Entry,
    Missing,
    Problem,
    Published,
    Refusal,
    Scan,
)
from samovar.cache.files.publishing import Writer, items_of, remove
from samovar.cache.files.reading import Space, gather, read_apart, read_block
from samovar.cache.files.survey import Survey, remove_leavings, survey
from samovar.cache.files.usage import pack_usage, unpack_usage
from samovar.cache.keys import Key, Namespace

__all__ = [
    "DiskRefused",
    "Entry",
    "FileTier",
    "Missing",
    "Problem",
    "Published",
    "Refusal",
    "Scan",
]

_ABOUT = "namespace.json"
_USAGE = "usage"
_MAX_SCOPES = 4096  # sets of adapters and salts whose blocks one directory holds
_MAX_USAGE = 2**30  # bytes; what claims more is damaged


class FileTier:
    """The blocks of one model in one directory. For one thread; others only sync for it.

          open()                    close()
    NEW ────────> OPEN (everything) ───────> CLOSED ──open()──> OPEN
             DiskRefused: still NEW

    No method raises OSError. Where the directory vanishes or the disk fails, `publish` refuses,
    `read` says Missing, and `open` may be tried again. So it is before `open` and after `close`.
    """

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
        self.budget = budget
        """May be set at any time: nothing is deleted for it, but nothing more is added."""
        self._namespace = namespace
        self._io = io or Io()
        path = root / namespace.digest.hex()[:32]
        self._folder = Folder(self._io, path, is_durable=is_durable)
        self._ledger = Ledger(self._folder, self._recover)
        self._buffers = Buffers()
        self._scopes = {namespace.digest}
        self._found = Survey([], 0, [], [], [], []), 0
        self._used = 0

    @property
    def path(self) -> Path:
        """The directory of this namespace."""
        return self._folder.path

    @property
    def is_durable(self) -> bool:
        """Whether what is published survives the loss of power."""
        return self._folder.is_durable

    # ---- life ---------------------------------------------------------------------------------

    def open(self) -> Scan:
        """Make and check the directories, remove leavings, list the blocks.

        Raises DiskRefused for symlinks, what belongs to someone else, or cannot be made or read.
        Where another process keeps the lock, or the file system cannot be written to, blocks are
        listed, but nothing is removed.
        """
        self.close()
        self._folder.open()
        try:
            return self._listed()
        except OSError as error:
            self.close()
            raise DiskRefused(
                cause_of(error), f"{self.path} cannot be read: {error.strerror}"
            ) from None

    def close(self) -> None:
        """Give the descriptors back. Idempotent."""
        self._ledger.close()
        self._folder.close()

    def add_scope(self, namespace: Namespace) -> bool:
        """Let blocks of `namespace`, one under that of this directory, be published here.

        Writes its readable form. False if it could not be written, or too many are: whoever asks
        with ever new salts is not to fill the disk. The second time costs nothing.
        """
        if namespace.digest in self._scopes:
            return True
        try:
            with self._ledger.held() as account:
                name = f"{namespace.digest.hex()}.json"
                known = self._folder.names(SCOPES)
                is_full = len(known) >= _MAX_SCOPES or account.used_bytes >= self.budget
                if is_full and name not in known:
                    return False
                self._note(account, SCOPES, name, namespace)
        except (Locked, OSError):
            return False
        self._scopes.add(namespace.digest)
        return True

    # ---- blocks -------------------------------------------------------------------------------

    def publish(self, blocks: Sequence[Block], *, evict: Sequence[Name] = ()) -> Published:
        """Write a group; predecessors are put before their successors.

        Where the budget lacks room, what is in quarantine goes first, then blocks of `evict` in
        this order, under the same lock, no more than necessary. A block that is refused refuses
        those of the group that hang on it.
        """
        result = Published([], [], [])
        items = items_of(blocks)
        cause = ""
        try:
            with self._ledger.held() as account:
                writer = Writer(self._folder, account, self.budget, evict, result)
                writer.publish(items, self._scopes)
        except Locked:
            cause = "locked"
        except OSError as error:
            cause = cause_of(error)
        settled = {entry.name for entry in result.done}
        settled |= {name_of(refusal.block.head) for refusal in result.refused}
        for item in items:
            if item.name not in settled:
                item.abandon(self._io)
                result.refused.append(Refusal(item.block, cause))
        return result

    def read(self, name: Name, namespace: bytes, buffer: memoryview | None = None) -> Block:
        """A block, verified. `namespace` is the digest of its scope.

        Its contents are views of `buffer` if that is large enough, else of other memory. Raises
        Missing, or BadBlock for anything that is not the block: the file is in quarantine then.
        """
        try:
            return read_block(self._folder, name, namespace, self._space(buffer))
        except BadBlock:
            self._set_aside(name)
            raise

    def read_apart(
        self, name: Name, namespace: bytes, places: Sequence[np.ndarray]
    ) -> Head | Block:
        """The same, its payload in places of bytes that follow each other in it: then its head.

        A block with logits or of another size than the places is read as any other.
        """
        try:
            head = read_apart(self._folder, name, namespace, places)
        except BadBlock:
            self._set_aside(name)
            raise
        return head or self.read(name, namespace)

    def gather(self, head: Head, places: Sequence[np.ndarray]) -> Block:
        """A copy of what was read apart, as one block. Raises Missing: there is no memory."""
        return gather(head, places, self._buffers.take)

    def find(self, names: Iterable[Name]) -> list[Entry]:
        """Those that are there: what another process published, without listing everything."""
        found = []
        for name in names:
            with suppress(OSError):
                about = self._io.stat(str(name), at=self._folder.fd(BLOCKS))
                if is_ours(about):
                    found.append(Entry(name, weight(about)))
        return found

    def delete(self, names: Sequence[Name]) -> list[Name]:
        """Delete blocks; returns those that are not there any more (none if the lock is kept)."""
        gone: list[Name] = []
        with suppress(Locked, OSError), self._ledger.held() as account:
            gone += [name for name in names if remove(self._folder, account, str(name))]
        return gone

    def rescan(self) -> Scan | None:
        """The blocks, if anyone else changed something since they were last listed, else None."""
        state = self._ledger.state()
        if state is None or state == self._ledger.seen:
            return None
        try:
            found = survey(self._folder)
        except OSError:
            return None
        self._ledger.seen = state
        return self._scan(found, 0)

    def used_bytes(self) -> int:
        """What counts against the budget now, what other processes did included."""
        record = self._ledger.peek()
        if record is not None:
            self._used = record.used_bytes
        with suppress(OSError):
            return self._used + self._folder.directory_bytes()
        return self._used

    # ---- what else is kept --------------------------------------------------------------------

    def pin(self, key: Key) -> bool:
        """Remember that a key is pinned. Idempotent; False if it could not be written."""
        try:
            flags = os.O_WRONLY | os.O_CREAT
            self._io.close(self._io.open(key.hex(), flags, at=self._folder.fd(PINS)))
            self._folder.sync(PINS)
        except OSError:
            return False
        return True

    def unpin(self, key: Key) -> bool:
        """Forget a pin. Idempotent; False if that failed."""
        try:
            with suppress(FileNotFoundError):
                self._io.unlink(key.hex(), at=self._folder.fd(PINS))
            self._folder.sync(PINS)
        except OSError:
            return False
        return True

    def pins(self) -> set[Key]:
        """The pinned keys."""
        with suppress(OSError):
            return {key for key in map(_digest, self._folder.names(PINS)) if key}
        return set()

    def load_usage(self) -> dict[Key, tuple[float, float]]:
        """(heat, when) by key, as last saved; empty if there is none, or it is damaged."""
        with suppress(OSError):
            return unpack_usage(self._folder.contents(TOP, _USAGE, _MAX_USAGE))
        return {}

    def save_usage(self, usage: Mapping[Key, tuple[float, float]]) -> bool:
        """Replace it as a whole; the last process to save wins.

        False if that failed, or the budget has no room for it.
        """
        data = pack_usage(usage)
        try:
            with self._ledger.held() as account:
                room = self.budget - account.used_bytes - self._folder.directory_bytes() - PAGE
                if len(data) > room:
                    # In a full directory the old one goes first: it is only a help.
                    before = self._weight(TOP, _USAGE)
                    if len(data) > room + before:
                        return False
                    self._io.unlink(_USAGE, at=self._folder.fd(TOP))
                    account.used_bytes -= before
                self._replace(account, TOP, _USAGE, data)
        except (Locked, OSError):
            return False
        return True

    # ---- proof --------------------------------------------------------------------------------

    def check(self, *, deep: bool) -> list[Problem]:
        """What is wrong: names, owners, modes, heads and sizes of files, leavings, the ledger.

        If `deep`, contents too: every block is read whole. Changes nothing.
        """
        try:
            return checking.check(
                self._folder, self._ledger, self._scopes | self._noted_scopes(), deep=deep
            )
        except OSError as error:
            return [Problem(cause_of(error), TOP)]

    def repair(self, problems: Iterable[Problem]) -> int:
        """Quarantine bad blocks, remove leavings, tighten modes, count again.

        Returns how many were put right. Foreign files are left alone.
        """
        try:
            return checking.repair(self._folder, self._ledger, problems)
        except (Locked, OSError):
            return 0

    # ---- behind them --------------------------------------------------------------------------

    def _listed(self) -> Scan:
        try:
            with self._ledger.held(lists=True) as account:
                self._note(account, TOP, _ABOUT, self._namespace)
            scan = self._scan(*self._found)
        except (Locked, OSError):  # reading is still possible
            self._ledger.seen = self._ledger.state()
            scan = self._scan(survey(self._folder), 0)
        self._scopes |= self._noted_scopes()
        return scan

    def _scan(self, found: Survey, leavings: int) -> Scan:
        self._used = found.file_bytes
        return Scan(found.entries, self.used_bytes(), len(found.foreign), leavings)

    def _recover(self) -> int:
        """Clear up after a dead writer and count. The lock is held; raises OSError."""
        leavings = remove_leavings(self._folder)
        self._folder.sync(BLOCKS)  # it may have died between linking and syncing
        found = survey(self._folder)
        account = Account(found.file_bytes)
        names = [str(entry.name) for entry in found.superseded]
        leavings += sum(remove(self._folder, account, name) for name in names)
        self._found = found, leavings
        return account.used_bytes

    def _space(self, buffer: memoryview | None) -> Space:
        if buffer is None:
            return self._buffers.take
        whole = buffer.cast("B")
        return lambda size: whole[:size] if size <= len(whole) else self._buffers.take(size)

    def _set_aside(self, name: Name) -> None:
        """Move a bad file away; a miss is not made to wait for the lock."""
        quarantine.put(self._folder, str(name))
        with suppress(Locked, OSError), self._ledger.held(patience=0) as account:
            quarantine.trim(self._folder, account)

    def _noted_scopes(self) -> set[bytes]:
        with suppress(OSError):
            stems = (name.removesuffix(".json") for name in self._folder.names(SCOPES))
            return {digest for digest in map(_digest, stems) if digest}
        return set()

    def _note(self, account: Account, part: str, name: str, namespace: Namespace) -> None:
        data = namespace.as_json().encode()
        with suppress(OSError):
            if self._folder.contents(part, name, len(data) + 1) == data:
                return
        self._replace(account, part, name, data)

    def _replace(self, account: Account, part: str, name: str, data: bytes) -> None:
        before = self._weight(part, name)
        self._folder.replace(part, name, data)
        account.used_bytes += self._weight(part, name) - before

    def _weight(self, part: str, name: str) -> int:
        with suppress(FileNotFoundError):
            return weight(self._io.stat(name, at=self._folder.fd(part)))
        return 0


def _digest(text: str) -> bytes | None:
    """32 bytes out of 64 hex digits."""
    with suppress(ValueError):
        digest = bytes.fromhex(text)
        return digest if digest.hex() == text and len(digest) == 32 else None
    return None
