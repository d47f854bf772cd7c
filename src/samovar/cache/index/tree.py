"""How the blocks of an index hang together: parents, copies, and what holds what.

They may become known in any order (a directory is listed in none). A parent that is not known yet
is a placeholder, without a parent of its own until it is added; what holds a block then holds what
it hangs on as well. Positions ascend along every link, so that names which lie make no circle.
"""

from __future__ import annotations

from collections.abc import Iterator

from samovar.cache.block import ROWS, STATE
from samovar.cache.index import policy
from samovar.cache.index.node import ALL, TIERS, About, Copies, Copy, Node, Shared, Tier
from samovar.cache.index.queue import Queue
from samovar.cache.keys import ROOT, Key

_FEW = 16  # children: with more of them, hardly another block has the same counts


class Tree:
    """Nodes and their links. Its owner is the index."""

    def __init__(self) -> None:
        self.root = Node(ROOT, ROWS, 0)
        """What stands before the first blocks: in no tier, and never a victim."""
        self.rows: dict[Key, Node] = {}
        self.queues = tuple(Queue(tier) for tier in TIERS)
        """By tier."""
        self.pins: set[Key] = set()
        self._counts: Shared[tuple[int, ...]] = Shared()
        self._copies: Shared[Copies] = Shared()

    def all(self) -> Iterator[Node]:
        """Every node, placeholders included."""
        for node in list(self.rows.values()):
            yield node
            if node.state is not None:
                yield node.state

    def get(self, key: Key, kind: str) -> Node | None:
        """The block of that name, if it is in a tier."""
        node = self.rows.get(key)
        if node is not None and kind == STATE:
            node = node.state
        return node if node is not None and node.tiers else None

    def named(self, key: Key) -> list[Node]:
        """What is in a tier under that name."""
        return [node for kind in (ROWS, STATE) if (node := self.get(key, kind)) is not None]

    def node(self, about: About) -> Node:
        """The node that this is, with its parent. Raises ValueError if it cannot be."""
        rows = self.rows.get(about.key)
        if rows is None or rows.parent is None:
            rows = self._attached(rows, about)
        elif (rows.parent.key, rows.end, rows.num_tokens) != (
            about.parent,
            about.start + about.num_tokens,
            about.num_tokens,
        ):
            raise ValueError("another block of this name has another place")
        if about.kind == ROWS:
            return rows
        if rows.state is None:
            rows.state = Node(rows.key, STATE, rows.end)
            rows.state.num_tokens = rows.num_tokens
            self._hang(rows.state, rows)
        return rows.state

    def change(self, node: Node, tier: Tier, copy: Copy | None, seconds: float = 0.0) -> None:
        """Set what is in a tier, and everything that is counted of it."""
        queue, before = self.queues[tier], node.copies[tier]
        level, rank, was_somewhere = node.level, node.rank, bool(node.tiers)
        node.copies = self._copies((*node.copies[:tier], copy, *node.copies[tier + 1 :]))
        node.tiers = node.tiers & ~queue.bit if copy is None else node.tiers | queue.bit
        node.seconds = seconds or node.seconds or policy.SECONDS_PER_TOKEN * node.num_tokens
        node.rank = level + node.density
        if node.rank < rank and node.queued:
            for other in self.queues:
                other.lowered(node)
        more = (copy is not None) - (before is not None)
        queue.count += more
        queue.nbytes += (copy.nbytes if copy else 0) - (before.nbytes if before else 0)
        if more and node.parent is not None:
            self._count(node.parent, tier, more)
            if more < 0:
                self._settle(node.parent)
        if was_somewhere != bool(node.tiers) and node.key in self.pins:
            (self.let_go if was_somewhere else self.hold)(node)
        else:
            self._settle(node)

    def hold(self, node: Node) -> None:
        """One reason more to stay; the first one holds what it hangs on, too."""
        above: Node | None = node
        while above is not None:
            above.holds += 1
            if above.holds > 1:
                return
            above = above.parent

    def let_go(self, node: Node) -> None:
        """One reason less."""
        above: Node | None = node
        while above is not None:
            parent = above.parent
            above.holds -= 1
            if above.holds:
                return
            self._settle(above)
            above = parent

    def _attached(self, rows: Node | None, about: About) -> Node:
        """A node of rows behind its parent: a new one, or what was a placeholder till now."""
        is_first, end = about.parent == ROOT, about.start + about.num_tokens
        parent = self.root if is_first else self.rows.get(about.parent)
        if about.num_tokens < 1 or about.key == ROOT or is_first != (about.start == 0):
            raise ValueError("a block begins where another ends, and is not empty")
        if about.start < 0:
            raise ValueError("a block begins at a position")
        if (parent is not None and parent.end != about.start) or (rows and rows.end != end):
            raise ValueError("a block does not begin where the one before it ends")
        if parent is None:
            parent = self.rows[about.parent] = Node(about.parent, ROWS, about.start)
        if rows is None:
            rows = self.rows[about.key] = Node(about.key, ROWS, end)
        rows.num_tokens = about.num_tokens
        if about.num_tokens not in parent.lengths:
            parent.lengths = self._counts(tuple(sorted((*parent.lengths, about.num_tokens))))
        self._hang(rows, parent)
        return rows

    def _hang(self, node: Node, parent: Node) -> None:
        node.parent = parent
        self._count(parent, ALL, 1)
        if node.holds:
            self.hold(parent)

    def _count(self, parent: Node, where: int, more: int) -> None:
        below = parent.below
        counts = (*below[:where], below[where] + more, *below[where + 1 :])
        parent.below = self._counts(counts) if counts[ALL] <= _FEW else counts

    def _settle(self, node: Node) -> None:
        """Forget it if nothing needs it, or let the queues have it if it may go."""
        while not (node.tiers or node.holds or node.below[ALL]) and node is not self.root:
            parent = node.parent
            self._forget(node)
            if parent is None:
                return
            node = parent
        for queue in self.queues:
            if node.tiers & queue.bit:
                queue.offer(node)

    def _forget(self, node: Node) -> None:
        parent = node.parent
        if node.kind == ROWS:
            del self.rows[node.key]
        elif parent is not None:
            parent.state = None
        if parent is not None:
            self._count(parent, ALL, -1)
            if not parent.below[ALL]:
                parent.lengths = ()
