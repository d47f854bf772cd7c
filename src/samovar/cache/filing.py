"""What is being written to the file tiers, and what goes for it.

A block that goes for others is named when the write is asked for, and goes only as far as room
lacks when it is carried out: what other processes did in between is known only then. Until that
it is held, so that it is not chosen twice.

Nothing is written that hangs on what is not there or is about to go: nobody would find it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from samovar.cache.block import ROWS, STATE, Block
from samovar.cache.files import FileTier
from samovar.cache.index import Index
from samovar.cache.keys import ROOT, Key
from samovar.cache.memory import MemoryTier
from samovar.cache.names import Name
from samovar.cache.node import Node, Tier
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


class Filing:
    """Blocks on their way into the file tiers of one store."""

    def __init__(self, files: Mapping[Tier, FileTier], index: Index, transfer: Transfer) -> None:
        self._files = files
        self._index = index
        self._transfer = transfer
        self._writing: dict[Tier, dict[_Id, _Written]] = defaultdict(dict)
        self._doomed: dict[Tier, dict[_Id, Node]] = defaultdict(dict)
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
        written = _Written(on_disk(block.head.size), block.above)
        going = sum(
            copy.nbytes for one in self._doomed[tier].values() if (copy := one.copies[tier])
        )
        coming = written.size + sum(one.size for one in self._writing[tier].values())
        used = self._index.bytes_of(tier) - going + self._besides[tier] + _SLACK
        self._writing[tier][name] = written
        victims = self._choose(tier, used + coming - self._files[tier].budget)
        names = tuple(name_of_node(node, tier) for node in victims)
        if not self._transfer.write(tier, block, names):
            for node in victims:
                self._spare(tier, node)
            del self._writing[tier][name]
            return False
        return True

    def take(self, done: WriteDone) -> list[Node]:
        """A group was written; returns what went for it, which is still in the index."""
        tier = done.tier
        for block in done.blocks:
            self._writing[tier].pop((block.head.key, block.head.kind), None)
        gone = {(name.key, name.kind) for name in done.published.evicted}
        found = []
        for name in done.victims:
            node = self._doomed[tier].get((name.key, name.kind))
            if node is not None:
                self._spare(tier, node)
                if (name.key, name.kind) in gone:
                    found.append(node)
        return found

    def count(self, tier: Tier, used_bytes: int) -> None:
        """So many bytes count against a tier's budget, with everything that is recorded now."""
        self._besides[tier] = max(0, used_bytes - self._index.bytes_of(tier))

    def _stays(self, tier: Tier, key: Key) -> bool:
        """Whether rows are in a tier and not about to go, or on their way there."""
        name, node = (key, ROWS), self._index.get(key)
        if name in self._writing[tier]:
            return True
        return node is not None and bool(node.tiers & tier.bit) and name not in self._doomed[tier]

    def _choose(self, tier: Tier, need: int) -> list[Node]:
        if need <= 0:
            return []
        above = {one.above for one in self._writing[tier].values()}
        needed = [node for key in above if (node := self._index.get(key)) is not None]
        self._index.lease(needed)
        victims = self._index.victims(tier, need)
        self._index.release(needed)
        self._index.lease(victims)
        self._doomed[tier].update({(node.key, node.kind): node for node in victims})
        return victims

    def _spare(self, tier: Tier, node: Node) -> None:
        del self._doomed[tier][node.key, node.kind]
        self._index.release([node])


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
