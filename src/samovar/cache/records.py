"""What a store knows of its blocks: the index, checkpoints by tier, and what had to go.

Everything that enters or leaves a tier is recorded here and nowhere else, so that the counts agree.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from samovar.cache.block import STATE
from samovar.cache.checkpoints import Checkpoints
from samovar.cache.counters import Counters
from samovar.cache.files.names import Name
from samovar.cache.files.outcomes import Scan
from samovar.cache.index import policy
from samovar.cache.index.index import Index
from samovar.cache.index.node import About, Copy, Node, Tier
from samovar.cache.keys import Key

_MAX_GHOSTS = 65_536  # evicted blocks that are remembered, to be able to say so


class Records:
    """Blocks by tier."""

    def __init__(self, checkpoint_share: float, clock: Callable[[], float]) -> None:
        self.index = Index()
        self.counters = Counters()
        self.checkpoints = Checkpoints(checkpoint_share)
        self._clock = clock
        self._ghosts: OrderedDict[Key, None] = OrderedDict()

    def add(
        self, tier: Tier, about: About, nbytes: int, *, logits_bytes: int, seconds: float = 0.0
    ) -> Node | None:
        """A block is in a tier. None if its name contradicts what is known: reading would too."""
        try:
            node = self.index.add(
                tier, about, nbytes, now=self._clock(), logits_bytes=logits_bytes, seconds=seconds
            )
        except ValueError:
            self.counters.bad_blocks["name"] += 1
            return None
        if node.kind == STATE:
            self.checkpoints.add(node, tier, nbytes)
        return node

    def add_file(self, tier: Tier, name: Name, nbytes: int) -> Node | None:
        """A file is in a tier."""
        about = About(name.key, name.parent, name.kind, name.start, name.num_tokens)
        return self.add(tier, about, nbytes, logits_bytes=name.logits_bytes)

    def put_back(self, tier: Tier, about: About, copy: Copy, level: float, seconds: float) -> None:
        """A block is still in a tier, worth what it was when it was dropped (see `Node.level`)."""
        now, logits_bytes = level * policy.HALF_LIFE, copy.logits_bytes
        node = self.index.add(
            tier, about, copy.nbytes, now=now, logits_bytes=logits_bytes, seconds=seconds
        )
        if node.kind == STATE:
            self.checkpoints.add(node, tier, copy.nbytes)

    def gone(self, tier: Tier, name: Name) -> None:
        """A file had to go from a tier; its block was dropped, unless somebody found it since."""
        node = self.index.get(name.key, name.kind)
        if node is not None and node.tiers & tier.bit:
            self.drop(node, tier)
        self.counters.evicted_blocks[tier.name.lower()] += 1
        if node is None or not node.tiers:
            self._haunt(name.key)

    def drop(self, node: Node, tier: Tier) -> None:
        """A block is not in a tier any more, for whatever reason."""
        self.index.discard(node, tier)
        self.checkpoints.discard(node, tier)

    def evict(self, node: Node, tier: Tier) -> None:
        """A block had to go from a tier."""
        self.drop(node, tier)
        self.counters.evicted_blocks[tier.name.lower()] += 1
        if not node.tiers:
            self.haunt(node)

    def learn(self, tier: Tier, scan: Scan) -> None:
        """What is in a directory now, whoever put it there or took it away."""
        present = set()
        for name, nbytes in scan.entries:
            node = self.index.get(name.key, name.kind)
            if node is None or not node.tiers & tier.bit:
                node = self.add_file(tier, name, nbytes)
            present.add(node)
        for node in [one for one in self.index.nodes(tier) if one not in present]:
            self.drop(node, tier)

    def haunt(self, node: Node) -> None:
        """Remember that a block was here."""
        self._haunt(node.key)

    def was_evicted(self, key: Key) -> bool:
        """Whether a block of this key was here and had to go, as far as is remembered."""
        return key in self._ghosts

    def _haunt(self, key: Key) -> None:
        self._ghosts[key] = None
        if len(self._ghosts) > _MAX_GHOSTS:
            self._ghosts.popitem(last=False)
