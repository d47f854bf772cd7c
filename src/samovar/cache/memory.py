"""Blocks in the memory of this process, as they came out of the cells: nothing is copied."""

from __future__ import annotations

from samovar.cache.block import Block
from samovar.cache.index.node import Node


class MemoryTier:
    """What is in memory, by node. How much may be, the store decides."""

    def __init__(self) -> None:
        self._blocks: dict[Node, Block] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def read(self, node: Node) -> Block | None:
        """The block, if it is here."""
        return self._blocks.get(node)

    def write(self, node: Node, block: Block) -> None:
        """Keep it. Its contents must not change any more."""
        self._blocks[node] = block

    def delete(self, node: Node) -> None:
        """Let it go; unknown ones are ignored."""
        self._blocks.pop(node, None)
