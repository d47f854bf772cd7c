"""What is being written to the file tiers, and what goes for it.

What goes for a block is named when the write is asked for, and goes only as far as room lacks when
it is carried out: what other processes did in between is known only then. From then on nobody
counts on it; what could stay after all is put back.

Nothing is written that hangs on what is not there: nobody would find it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from samovar.cache.block import ROWS, STATE, Block
from samovar.cache.files.names import Name
from samovar.cache.files.tier import FileTier
from samovar.cache.index.node import About, Copy, Node, Tier
from samovar.cache.keys import ROOT, Key
from samovar.cache.memory import MemoryTier
from samovar.cache.records import Records
from samovar.cache.transfer import Transfer, WriteDone

_PAGE = 4096
_SLACK = 2 * _PAGE  # a directory grows with the names in it

_Id = tuple[Key, str]


class _Written(NamedTuple):
    """A block on its way."""

    size: int
    """Bytes of whole pages."""
    above: Key
    """The rows on which it hangs."""


class _Doomed(NamedTuple):
    """A block that may go for others, as it was known."""

    about: About
    copy: Copy
    level: float
    seconds: float


class Filing:
    """Blocks on their way into the file tiers of one store."""

    def __init__(
        self, files: Mapping[Tier, FileTier], records: Records, transfer: Transfer
    ) -> None:
        self._files = files
        self._records = records
        self._index = index = records.index
        self._transfer = transfer
        self._writing: dict[Tier, dict[_Id, _Written]] = defaultdict(dict)
        self._doomed: dict[Tier, dict[_Id, _Doomed]] = defaultdict(dict)
        self._besides = {
            tier: one.used_bytes() - index.bytes_of(tier) for tier, one in files.items()
        }
        """Bytes of a tier that are none of the blocks that are known."""

    def has(self, node: Node) -> bool:
        """Whether a block is in a file tier, or on its way there."""
        name = (node.key, node.kind)
        return any(node.tiers & tier.bit or name in self._writing[tier] for tier in self._files)

    def is_writing(self, tier: Tier, block: Block) -> bool:
        """Whether a block of this name is on its way."""
        return (block.head.key, block.head.kind) in self._writing[tier]

    def states_bytes(self, tier: Tier) -> int:
        """Bytes of the checkpoints that are on their way."""
        return sum(one.size for (_, kind), one in self._writing[tier].items() if kind == STATE)

    def with_missing(self, tier: Tier, block: Block, memory: MemoryTier) -> list[Block] | None:
        """The block behind those that it hangs on and that the tier lacks, first to last.

        None: one of them is not in memory either.
        """
        found, above = [block], block.above
        while above != ROOT and not self._stays(tier, above):
            node = self._index.get(above)
            other = None if node is None else memory.read(node)
            if other is None:
                return None
            found.append(other)
            above = other.above
        return found[::-1]

    def write(self, tier: Tier, block: Block) -> bool:
        """Have a block written. False: the queue is full."""
        name = (block.head.key, block.head.kind)
        if name in self._writing[tier]:
            return True
        if not self._transfer.has_room(block):
            return False
        self._writing[tier][name] = _Written(on_disk(block.head.size), block.above)
        coming = sum(one.size for one in self._writing[tier].values())
        used = self._index.bytes_of(tier) + self._besides[tier] + _SLACK
        victims = self._choose(tier, used + coming - self._files[tier].budget)
        return self._transfer.write(tier, block, victims)

    def take(self, done: WriteDone) -> None:
        """A group was written: what is there now and what went is recorded."""
        tier, published = done.tier, done.published
        for block in done.blocks:
            name = (block.head.key, block.head.kind)
            self._writing[tier].pop(name, None)
            self._doomed[tier].pop(name, None)  # it is wanted again
        for gone in published.evicted:
            self._doomed[tier].pop((gone.key, gone.kind), None)
            self._records.gone(tier, gone)
        for entry in published.done:
            self._records.add_file(tier, *entry)
        if not self._writing[tier]:
            self._transfer.spare(tier)
            for doomed in self._doomed.pop(tier, {}).values():
                self._records.put_back(tier, *doomed)
        going = sum(one.copy.nbytes for one in self._doomed[tier].values())
        self._besides[tier] = max(0, done.used_bytes - self._index.bytes_of(tier) - going)

    def _stays(self, tier: Tier, key: Key) -> bool:
        """Whether rows are in a tier, or on their way there."""
        node = self._index.get(key)
        is_there = node is not None and bool(node.tiers & tier.bit)
        return is_there or (key, ROWS) in self._writing[tier]

    def _choose(self, tier: Tier, need: int) -> tuple[Name, ...]:
        """What may go for others. It is not in the index any more."""
        if need <= 0:
            return ()
        above = {one.above for one in self._writing[tier].values()}
        needed = [node for key in above if (node := self._index.get(key)) is not None]
        self._index.lease(needed)
        victims = self._index.victims(tier, need)
        self._index.release(needed)
        names = []
        for node in victims:
            name, copy = name_of_node(node, tier), node.copies[tier]
            assert copy is not None  # it has a name there
            about = About(name.key, name.parent, name.kind, name.start, name.num_tokens)
            self._doomed[tier][name.key, name.kind] = _Doomed(about, copy, node.level, node.seconds)
            self._records.drop(node, tier)
            names.append(name)
        return tuple(names)


def name_of_node(node: Node, tier: Tier) -> Name:
    """The name of a block's file in a tier in which it is."""
    copy = node.copies[tier]
    rows = node if node.kind == ROWS else node.parent
    if copy is None or rows is None or rows.parent is None:
        raise ValueError("the block is not in that tier")
    parent, start = rows.parent.key, node.end - node.num_tokens
    return Name(node.key, parent, start, node.num_tokens, copy.logits_bytes, node.kind)


def on_disk(size: int) -> int:
    """Bytes that a file takes: whole pages."""
    return -(-size // _PAGE) * _PAGE
