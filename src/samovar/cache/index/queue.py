"""The blocks of one tier that may be taken away, those of least worth first.

Ranks do not change with time, so a heap is enough. It is lazy: an entry is put right when it comes
up, because a hit on a long path would otherwise move each of its blocks. What holds is only that
every block that may go has an entry that ranks it no higher than it is.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from samovar.cache.index.node import Node, Tier

_SLACK = 64  # entries that are never worth a clearing


class Queue:
    """Victims of one tier. Its owner is the index."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.count = 0
        """How many blocks are in the tier."""
        self.nbytes = 0
        """How many bytes they take."""
        self.bit = tier.bit
        """The tier in masks."""
        self._heap: list[tuple[float, Node]] = []
        self._limit = _SLACK

    def __len__(self) -> int:
        """Entries, those out of date included: at most twice those that may go, and a few."""
        return len(self._heap)

    def may_go(self, node: Node, gone: int = 0) -> bool:
        """Whether it is here, not held, and nothing hangs on it here but `gone` that go first."""
        here = node.tiers & self.bit and not node.holds
        return bool(here) and node.below[self.tier] <= gone

    def offer(self, node: Node) -> None:
        """Take it up if it may go and is not here yet."""
        if not node.queued & self.bit and self.may_go(node):
            self._make_room()
            self._push(node)

    def lowered(self, node: Node) -> None:
        """Its rank is lower than it was."""
        if node.queued & self.bit:
            self._make_room()
            self._push(node)

    def victims(self, need_bytes: int) -> list[Node]:
        """Blocks that free so many bytes, children before parents; fewer where there are none.

        Nothing is taken away by this: whoever takes them away tells the index.
        """
        chosen: list[Node] = []
        taken: set[Node] = set()
        gone: dict[Node, int] = {}
        freed = 0
        while freed < need_bytes and self._heap:
            rank, node = heappop(self._heap)
            node.queued &= ~self.bit
            if node in taken or not self.may_go(node, gone.get(node, 0)):
                continue
            if node.rank > rank:
                self._push(node)
                continue
            chosen.append(node)
            taken.add(node)
            copy = node.copies[self.tier]
            freed += copy.nbytes if copy is not None else 0
            parent = node.parent
            if parent is not None:
                gone[parent] = gone.get(parent, 0) + 1
                if self.may_go(parent, gone[parent]) and not parent.queued & self.bit:
                    self._push(parent)
        for node in chosen:
            self.offer(node)
        return chosen

    def covered(self) -> set[Node]:
        """The nodes that have an entry which ranks them no higher than they are."""
        return {node for rank, node in self._heap if rank <= node.rank}

    def rebuild(self) -> None:
        """Drop what is out of date."""
        nodes = {node for _, node in self._heap}
        for node in nodes:
            node.queued &= ~self.bit
        self._heap = [(node.rank, node) for node in nodes if self.may_go(node)]
        for _, node in self._heap:
            node.queued |= self.bit
        heapify(self._heap)

    def _push(self, node: Node) -> None:
        node.queued |= self.bit
        heappush(self._heap, (node.rank, node))

    def _make_room(self) -> None:
        # Of a chain that grows, each block was the last one once: without this the heap keeps all.
        if len(self._heap) >= self._limit:
            self.rebuild()
            self._limit = 2 * len(self._heap) + _SLACK
