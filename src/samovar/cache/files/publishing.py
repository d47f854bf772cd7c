"""A group of blocks on its way into a directory: the steps that `files` lists, and their failures.

A step that fails refuses its block, and those of the group that hang on it; what it wrote is
removed. Only the directory's own sync concerns all blocks at once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from samovar.cache.block import ROWS, STATE, Block, pieces
from samovar.cache.files import quarantine
from samovar.cache.files.folder import BLOCKS, PAGE, TMP, Folder, is_ours, weight
from samovar.cache.files.io import Io, cause_of
from samovar.cache.files.ledger import Account
from samovar.cache.files.names import Name, name_of
from samovar.cache.files.outcomes import Entry, Published, Refusal
from samovar.cache.files.syncing import sync_all
from samovar.cache.keys import Key

OPEN_AT_ONCE = 64
"""Files between writing and syncing: far below the usual limit of 1,024 descriptors."""


@dataclass(slots=True)
class Item:
    """A block and how far it has come."""

    block: Block
    name: Name
    file: str
    pieces: list[bytes | memoryview]
    size: int
    temporary: str = ""
    fd: int = -1
    nbytes: int = 0

    def abandon(self, io: Io) -> None:
        """Close what is open."""
        if self.fd >= 0:
            with suppress(OSError):
                io.close(self.fd)
            self.fd = -1


def items_of(blocks: Sequence[Block]) -> list[Item]:
    """Blocks ready to be written, each once, predecessors first. Computes checksums."""
    items: dict[Name, Item] = {}
    for block in sorted(blocks, key=lambda each: (each.head.start, each.head.kind)):
        name = name_of(block.head)
        if name not in items:
            parts = pieces(block)
            items[name] = Item(block, name, str(name), parts, sum(len(part) for part in parts))
    return list(items.values())


def remove(folder: Folder, account: Account, file: str) -> bool:
    """Delete a block's file; True if it is not there any more. The lock is held."""
    try:
        nbytes = weight(folder.io.stat(file, at=folder.fd(BLOCKS)))
        folder.io.unlink(file, at=folder.fd(BLOCKS))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    account.used_bytes -= nbytes
    account.has_changed = True
    return True


class Writer:
    """Publishes while the lock is held. What becomes of each block is in `result`."""

    def __init__(
        self,
        folder: Folder,
        account: Account,
        budget: int,
        evict: Sequence[Name],
        result: Published,
    ) -> None:
        self._folder = folder
        self._io = folder.io
        self._account = account
        self._budget = budget
        self._evict = list(reversed(evict))
        self._result = result
        self._refused: set[tuple[Key, str]] = set()
        self._unlinked = 0

    def publish(self, items: Sequence[Item], scopes: Collection[bytes]) -> None:
        """Publish all of them whose namespace is among `scopes`."""
        for first in range(0, len(items), OPEN_AT_ONCE):
            batch = items[first : first + OPEN_AT_ONCE]
            self._unlinked = 0
            written = [item for item in batch if self._write(item, scopes)]
            self._settle([item for item in self._synced(written) if self._link(item)])

    # ---- steps: each says what goes on to the next one ----------------------------------------

    def _write(self, item: Item, scopes: Collection[bytes]) -> bool:
        if item.block.head.namespace not in scopes:
            self._refuse(item, "namespace")
        elif self._hangs_on_refused(item):
            self._refuse(item, "parent")
        elif not self._is_there(item):
            if self._has_room(-(-item.size // PAGE) * PAGE):
                return self._create(item)
            self._refuse(item, "budget")
        return False

    def _synced(self, items: list[Item]) -> list[Item]:
        if not self._folder.is_durable:
            return items
        synced = []
        errors = sync_all(self._io, [item.fd for item in items])
        for item, error in zip(items, errors, strict=True):
            if error is not None:
                # A second try would succeed without writing what the first one failed to write.
                self._withdraw(item, cause_of(error))
            elif self._close(item):
                synced.append(item)
        return synced

    def _link(self, item: Item) -> bool:
        if self._hangs_on_refused(item):
            self._withdraw(item, "parent")
            return False
        try:
            self._io.link(
                item.temporary, item.file, at=self._folder.fd(TMP), to=self._folder.fd(BLOCKS)
            )
        except OSError as error:
            self._withdraw(item, cause_of(error))
            return False
        self._account.has_changed = True
        return True

    def _settle(self, items: list[Item]) -> None:
        try:
            if items:
                self._folder.sync(BLOCKS)
        except OSError as error:
            for item in reversed(items):
                with suppress(OSError):
                    self._io.unlink(item.file, at=self._folder.fd(BLOCKS))
                self._withdraw(item, cause_of(error))
            self._account.is_sound = False
            return
        self._result.done += [Entry(item.name, item.nbytes) for item in items]
        for item in items:
            self._folder.discard(item.temporary)

    # ---- what the steps do ----------------------------------------------------------------------

    def _hangs_on_refused(self, item: Item) -> bool:
        above = item.name.key if item.name.kind == STATE else item.name.parent
        return (above, ROWS) in self._refused

    def _is_there(self, item: Item) -> bool:
        """Whether it need not be written. What has its name and cannot be it is moved away."""
        try:
            about = self._io.stat(item.file, at=self._folder.fd(BLOCKS))
        except OSError:
            return False
        if is_ours(about) and about.st_size == item.size:
            self._result.done.append(Entry(item.name, weight(about)))
            return True
        if quarantine.put(self._folder, item.file):
            self._account.has_changed = True
            quarantine.trim(self._folder, self._account)
        return False

    def _has_room(self, nbytes: int) -> bool:
        if nbytes > self._budget:
            return False
        while True:
            directories = self._folder.directory_bytes()
            # Each name may make a directory grow by a page, where the system says what those take.
            growth = PAGE * (self._unlinked + 1) if directories else 0
            if self._account.used_bytes + directories + growth + nbytes <= self._budget:
                return True
            if not self._make_room():
                return False

    def _make_room(self) -> bool:
        """Delete something; False if there is nothing left that may be deleted."""
        if quarantine.trim(self._folder, self._account, keep=0):
            return True
        if not self._evict:
            return False
        name = self._evict.pop()
        if remove(self._folder, self._account, str(name)):
            self._result.evicted.append(name)
        return True

    def _create(self, item: Item) -> bool:
        try:
            item.temporary, item.fd = self._folder.create(item.pieces)
        except OSError as error:
            self._refuse(item, cause_of(error))
            return False
        self._result.written_bytes += item.size
        try:
            item.nbytes = weight(self._io.fstat(item.fd))
        except OSError as error:
            self._withdraw(item, cause_of(error))
            return False
        self._account.used_bytes += item.nbytes
        self._unlinked += 1
        if not self._folder.is_durable:
            return self._close(item)
        with suppress(OSError):  # only a hint
            self._io.start_writing(item.fd)
        return True

    def _close(self, item: Item) -> bool:
        fd, item.fd = item.fd, -1
        try:
            self._io.close(fd)
        except OSError as error:  # some file systems say only now that they did not write
            self._withdraw(item, cause_of(error))
            return False
        return True

    def _withdraw(self, item: Item, cause: str) -> None:
        """Refuse a block that was written, and remove what was."""
        item.abandon(self._io)
        self._folder.discard(item.temporary)
        self._account.used_bytes -= item.nbytes
        self._refuse(item, cause)

    def _refuse(self, item: Item, cause: str) -> None:
        self._refused.add((item.name.key, item.name.kind))
        self._result.refused.append(Refusal(item.block, cause))
