"""What is being written to the file tiers, and what goes for it.

A block that goes for others is named when the write is asked for, and goes only as far as room
lacks when it is carried out: what other processes did in between is known only then. Until that
it is held, so that it is not chosen twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from samovar.cache.block import ROWS, Block
from samovar.cache.files import FileTier
from samovar.cache.index import Index
from samovar.cache.keys import Key
from samovar.cache.names import Name
from samovar.cache.node import Node, Tier
from samovar.cache.transfer import Transfer, WriteDone

_PAGE = 4096

_Id = tuple[Key, str]


class Filing:
    """Blocks on their way into the file tiers of one store."""

    def __init__(self, files: Mapping[Tier, FileTier], index: Index, transfer: Transfer) -> None:
        self._files = files
        self._index = index
        self._transfer = transfer
        self._writing: dict[Tier, dict[_Id, int]] = defaultdict(dict)
        self._doomed: dict[Tier, dict[_Id, Node]] = defaultdict(dict)

    def has(self, node: Node) -> bool:
        """Whether a block is in a file tier, or on its way there."""
        name = (node.key, node.kind)
        return any(node.tiers & tier.bit or name in self._writing[tier] for tier in self._files)

    def write(self, tier: Tier, block: Block) -> bool:
        """Have a block written. False: the queue is full."""
        name = (block.head.key, block.head.kind)
        if name in self._writing[tier]:
            return True
        size = _on_disk(block.head.size)
        going = sum(
            copy.nbytes for one in self._doomed[tier].values() if (copy := one.copies[tier])
        )
        used = self._index.bytes_of(tier) + sum(self._writing[tier].values()) - going
        victims = self._choose(tier, used + size - self._files[tier].budget)
        names = tuple(name_of_node(node, tier) for node in victims)
        if not self._transfer.write(tier, block, names):
            for node in victims:
                self._spare(tier, node)
            return False
        self._writing[tier][name] = size
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

    def _choose(self, tier: Tier, need: int) -> list[Node]:
        if need <= 0:
            return []
        victims = self._index.victims(tier, need)
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


def _on_disk(size: int) -> int:
    """Bytes that a file takes: whole pages."""
    return -(-size // _PAGE) * _PAGE
