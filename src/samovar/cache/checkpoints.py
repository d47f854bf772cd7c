"""Checkpoints take no more than their share of a tier: they are large, and rows are what is shared.

A checkpoint is a state block. They hang on rows, which an eviction of the usual kind takes only
after them; left alone, those of a long conversation would crowd out everyone else's rows.
"""

from __future__ import annotations

from samovar.cache.index.node import Node, Tier


class Checkpoints:
    """The state blocks of one store, and how many bytes of each tier they take."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._nodes: dict[Tier, dict[Node, int]] = {tier: {} for tier in Tier}
        self._bytes = dict.fromkeys(Tier, 0)

    def bytes_of(self, tier: Tier) -> int:
        """Bytes of checkpoints in a tier."""
        return self._bytes[tier]

    def add(self, node: Node, tier: Tier, nbytes: int) -> None:
        """One is in a tier."""
        self._bytes[tier] += nbytes - self._nodes[tier].get(node, 0)
        self._nodes[tier][node] = nbytes

    def discard(self, node: Node, tier: Tier) -> None:
        """One is not in a tier any more."""
        self._bytes[tier] -= self._nodes[tier].pop(node, 0)

    def excess(self, tier: Tier, budget: int, more: int) -> list[Node] | None:
        """Those of least worth that must go before `more` bytes fit; None: they never will."""
        room = int(budget * self.share) - more
        if room < 0:
            return None
        need = self._bytes[tier] - room
        if need <= 0:
            return []
        found: list[Node] = []
        for node in sorted(self._nodes[tier], key=lambda one: one.rank):
            if node.holds:
                continue
            found.append(node)
            need -= self._nodes[tier][node]
            if need <= 0:
                return found
        return None
