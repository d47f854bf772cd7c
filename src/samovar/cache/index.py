"""Which blocks exist, in which tiers, and what each is worth. In memory; no I/O; one owner thread.

Blocks form a tree: each begins where its parent ends. They may become known in any order (a
directory is listed in none): a parent that is not known yet is a placeholder, and nothing is found
through a placeholder.

    add ────> in one or more tiers ──discard from the last──> forgotten, or a placeholder for as
              │          ▲                                    long as something hangs on it
              match      │
              lease ─────┴─ release        leased, pinned, or an ancestor of such: never a victim

What is guaranteed: victims come children first in each tier, those of least worth first; a block
that is held, or on which a held one hangs, is never among them; a hit leaves no block on the way
to it with less worth than it has. What is not: an index says where copies should be. Whoever reads
one and does not find it tells so with `discard`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from samovar.cache import policy
from samovar.cache.audit import audit
from samovar.cache.block import ROWS, STATE
from samovar.cache.keys import ROOT, TOKEN_BYTES, Key, block_key, pack_tokens
from samovar.cache.node import ALL, TIERS, About, Copies, Copy, Node, Shared, Tier
from samovar.cache.queue import Queue

__all__ = ["About", "Copy", "Index", "Match", "Node", "Tier"]


@dataclass(frozen=True, slots=True)
class Match:
    """The blocks that a list of tokens begins with."""

    path: tuple[Node, ...]
    """Blocks of rows that follow each other from position 0; each is in a tier."""
    length: int
    """How many tokens they have together."""
    state: Node | None
    """The last state that was taken on that path, and is in a tier."""
    seen_children: bool
    """Whether blocks are known that continue the path: with other tokens, or without a copy."""
    is_lost: bool
    """Whether the next block of these tokens is known, and has no copy any more (or not yet)."""


class Index:
    """The blocks of one model, in all its namespaces. Not thread-safe: it has one owner.

    `half_life`: seconds after which a hit counts half.
    """

    def __init__(self, half_life: float = policy.HALF_LIFE) -> None:
        self._half_life = half_life
        self._root = Node(ROOT, ROWS, 0)
        self._rows: dict[Key, Node] = {}
        self._queues = tuple(Queue(tier) for tier in TIERS)
        self._pins: set[Key] = set()
        self._counts: Shared[tuple[int, ...]] = Shared()
        self._copies: Shared[Copies] = Shared()

    def __len__(self) -> int:
        """Blocks of rows that are known, placeholders included."""
        return len(self._rows)

    # What exists

    def add(
        self,
        tier: Tier,
        about: About,
        nbytes: int,
        *,
        now: float,
        logits_bytes: int = 0,
        seconds: float = 0.0,
    ) -> Node:
        """A copy is in a tier. A block that was nowhere before starts with the heat of one hit.

        `nbytes`: what it takes of the tier's budget. `seconds`: what it would take to compute it
        again; 0 keeps what is known, or guesses from the number of tokens. Adding again replaces
        sizes. Raises ValueError if it contradicts what is known of its neighbours: then its name
        lies, and the index is as before.
        """
        node = self._node(about)
        is_new = not node.tiers
        self._change(node, tier, Copy(nbytes, logits_bytes), seconds)
        if is_new:
            self._warm(node, now)
        self._settle(node)
        return node

    def discard(self, node: Node, tier: Tier) -> None:
        """There is no copy in this tier any more (if there was one)."""
        if node.tiers & tier.bit:
            self._change(node, tier, None)
            self._settle(node)

    def get(self, key: Key, kind: str = ROWS) -> Node | None:
        """The block of that name, if it is in a tier."""
        node = self._rows.get(key)
        if node is not None and kind == STATE:
            node = node.state
        return node if node is not None and node.tiers else None

    def nodes(self, tier: Tier | None = None) -> Iterator[Node]:
        """The blocks in a tier, or in any; parents are not always before their children."""
        mask = sum(t.bit for t in TIERS) if tier is None else tier.bit
        return (node for node in self._all() if node.tiers & mask)

    def bytes_of(self, tier: Tier) -> int:
        """How many bytes the blocks in a tier take."""
        return self._queues[tier].nbytes

    def count_of(self, tier: Tier) -> int:
        """How many blocks are in a tier."""
        return self._queues[tier].count

    # What a prompt begins with

    def match(
        self, namespace: bytes, tokens: Sequence[int] | bytes, *, needs_state: bool = False
    ) -> Match:
        """The longest path of blocks that the tokens begin with. No side effect.

        `namespace` is a digest; `tokens` are ids, or packed. Blocks are ragged, so that several
        paths may begin alike: all are tried, and the time grows with the number of blocks that
        they have together. `needs_state` prefers the path whose last state lies deepest, for
        models that cannot go on without.
        """
        data = tokens if isinstance(tokens, bytes) else pack_tokens(tokens)
        total = len(data) // TOKEN_BYTES
        best, best_state, best_score = self._root, None, (0, 0)
        waiting: list[tuple[Node, Node | None]] = [(self._root, None)]
        broken: set[Node] = set()
        while waiting:
            node, state = waiting.pop()
            if node.state is not None and node.state.tiers:
                state = node.state
            score = (state.end if needs_state and state is not None else 0, node.end)
            if score > best_score:
                best, best_state, best_score = node, state, score
            for length in node.lengths:
                stop = node.end + length
                if stop > total:
                    break
                piece = data[node.end * TOKEN_BYTES : stop * TOKEN_BYTES]
                child = self._rows.get(block_key(namespace, node.key, piece))
                if child is not None and child.tiers:
                    waiting.append((child, state))
                elif child is not None:
                    broken.add(node)
        return Match(_path(best), best.end, best_state, best.forks > 0, best in broken)

    # What must stay

    def lease(self, nodes: Iterable[Node]) -> None:
        """Nobody takes these away, nor what they hang on, until they are released as often.

        Raises ValueError, and leases none, if one of them is in no tier.
        """
        nodes = list(nodes)
        if not all(node.tiers for node in nodes):
            raise ValueError("a block that is in no tier cannot be leased")
        for node in nodes:
            node.leases += 1
            self._hold(node)

    def release(self, nodes: Iterable[Node]) -> None:
        """Give leased blocks back. Raises ValueError at one that is not leased."""
        for node in nodes:
            if not node.leases:
                raise ValueError("a block that is not leased cannot be released")
            node.leases -= 1
            self._let_go(node)

    def pin(self, key: Key) -> None:
        """Keep the rows and the state of this name, and what they hang on, whenever they exist."""
        if key not in self._pins:
            self._pins.add(key)
            for node in self._named(key):
                self._hold(node)

    def unpin(self, key: Key) -> None:
        """They may go again."""
        if key in self._pins:
            self._pins.discard(key)
            for node in self._named(key):
                self._let_go(node)

    def pins(self) -> frozenset[Key]:
        """The names that are pinned, of blocks that exist or not."""
        return frozenset(self._pins)

    # What it is worth

    def touch(self, nodes: Iterable[Node], now: float) -> None:
        """Count a hit on each of these blocks; what they hang on becomes worth as much at least.

        Give the whole path that was used, parents first, each block once.
        """
        nodes = list(nodes)
        for node in nodes:
            self._warm(node, now, policy.hit_weight(node.forks))
        lifted: dict[Node, float] = {}
        for node in reversed(nodes):
            self._lift(node, lifted)

    def heats(self, now: float) -> dict[Key, tuple[float, float]]:
        """Hits that still count, and `now`, by name: what set_heats takes after a restart.

        Of a name with rows and a state it is the greater one.
        """
        found: dict[Key, tuple[float, float]] = {}
        for node in self.nodes():
            heat = policy.heat_at(node.level, now, self._half_life)
            if heat > max(policy.LEAST_HEAT, found.get(node.key, (0.0, now))[0]):
                found[node.key] = (heat, now)
        return found

    def set_heats(self, heats: Mapping[Key, tuple[float, float]], now: float) -> None:
        """Set the heat of blocks to what it was at a time; a time after `now` counts as now.

        Names that are not known are ignored, impossible numbers make a block cold.
        """
        for key, (heat, when) in heats.items():
            for node in self._named(key):
                level = policy.level_of(heat, min(when, now), self._half_life)
                node.rank = level + node.density
        for node in sorted(self.nodes(), key=lambda node: (node.end, node.kind), reverse=True):
            if node.parent is not None and node.parent.tiers:
                node.parent.rank = max(node.parent.rank, node.rank)
        for queue in self._queues:
            queue.rebuild()

    def victims(self, tier: Tier, need_bytes: int) -> list[Node]:
        """Blocks whose going frees so many bytes of a tier, or all that may go if fewer.

        Children come before their parents, apart from that those of least worth first. Nothing
        changes by asking: call `discard` for each when its copy is gone.
        """
        return self._queues[tier].victims(need_bytes)

    def check(self) -> list[str]:
        """What contradicts itself in here; visits everything."""
        return audit(self._root, list(self._all()), self._queues, self._pins)

    # The tree

    def _all(self) -> Iterator[Node]:
        for node in list(self._rows.values()):
            yield node
            if node.state is not None:
                yield node.state

    def _named(self, key: Key) -> list[Node]:
        """What is in a tier under that name."""
        return [node for kind in (ROWS, STATE) if (node := self.get(key, kind)) is not None]

    def _node(self, about: About) -> Node:
        """The node that this is, with its parent. Raises ValueError if it cannot be."""
        rows = self._rows.get(about.key)
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

    def _attached(self, rows: Node | None, about: About) -> Node:
        """A node of rows behind its parent: a new one, or what was a placeholder till now."""
        parent = self._root if about.parent == ROOT else self._rows.get(about.parent)
        end = about.start + about.num_tokens
        if (
            about.num_tokens < 1
            or about.key == ROOT
            or (about.start == 0) != (parent is self._root)
        ):
            raise ValueError("a block begins where another ends, and is not empty")
        if (parent is not None and parent.end != about.start) or (rows and rows.end != end):
            raise ValueError("a block does not begin where the one before it ends")
        if parent is None:
            parent = self._rows[about.parent] = Node(about.parent, ROWS, about.start)
        if rows is None:
            rows = self._rows[about.key] = Node(about.key, ROWS, end)
        rows.num_tokens = about.num_tokens
        if about.num_tokens not in parent.lengths:
            parent.lengths = self._counts(tuple(sorted((*parent.lengths, about.num_tokens))))
        self._hang(rows, parent)
        return rows

    def _hang(self, node: Node, parent: Node) -> None:
        node.parent = parent
        self._count(parent, ALL, 1)
        if node.holds:
            self._hold(parent)

    def _change(self, node: Node, tier: Tier, copy: Copy | None, seconds: float = 0.0) -> None:
        """Set what is in a tier, and everything that is counted of it."""
        queue, before = self._queues[tier], node.copies[tier]
        level, rank, was_somewhere = node.level, node.rank, bool(node.tiers)
        node.copies = self._copies((*node.copies[:tier], copy, *node.copies[tier + 1 :]))
        node.tiers = node.tiers | tier.bit if copy is not None else node.tiers & ~tier.bit
        node.seconds = seconds or node.seconds or policy.SECONDS_PER_TOKEN * node.num_tokens
        node.rank = level + node.density
        if node.rank < rank:
            for other in self._queues:
                other.lowered(node)
        more = (copy is not None) - (before is not None)
        queue.count += more
        queue.nbytes += (copy.nbytes if copy else 0) - (before.nbytes if before else 0)
        if more and node.parent is not None:
            self._count(node.parent, tier, more)
            if more < 0:
                self._settle(node.parent)
        if was_somewhere != bool(node.tiers) and node.key in self._pins:
            (self._let_go if was_somewhere else self._hold)(node)

    def _count(self, parent: Node, where: int, more: int) -> None:
        below = parent.below
        parent.below = self._counts((*below[:where], below[where] + more, *below[where + 1 :]))

    def _settle(self, node: Node) -> None:
        """Forget it if nothing needs it, or let the queues have it if it may go."""
        while not (node.tiers or node.holds or node.below[ALL]) and node is not self._root:
            parent = node.parent
            self._forget(node)
            if parent is None:
                return
            node = parent
        for queue in self._queues:
            queue.offer(node)

    def _forget(self, node: Node) -> None:
        parent = node.parent
        if node.kind == ROWS:
            del self._rows[node.key]
        elif parent is not None:
            parent.state = None
        if parent is not None:
            self._count(parent, ALL, -1)
            if not parent.below[ALL]:
                parent.lengths = ()

    def _hold(self, node: Node) -> None:
        """One reason more to stay; the first one holds what it hangs on, too."""
        above: Node | None = node
        while above is not None:
            above.holds += 1
            if above.holds > 1:
                return
            above = above.parent

    def _let_go(self, node: Node) -> None:
        above: Node | None = node
        while above is not None:
            parent = above.parent
            above.holds -= 1
            if above.holds:
                return
            self._settle(above)
            above = parent

    def _warm(self, node: Node, now: float, weight: float = 1.0) -> None:
        density = node.density
        node.rank = density + policy.hit(node.rank - density, now, weight, self._half_life)

    def _lift(self, node: Node, lifted: dict[Node, float]) -> None:
        """What it hangs on is worth as much at least: without that, it is worth nothing.

        `lifted` says of what has been visited how much everything above it is worth at least.
        """
        worth, above = node.rank, node.parent
        while above is not None and lifted.get(above, policy.COLD) < worth:
            if above.tiers:
                worth = above.rank = max(above.rank, worth)
            lifted[above] = worth
            above = above.parent


def _path(last: Node) -> tuple[Node, ...]:
    path = []
    while last.parent is not None:
        path.append(last)
        last = last.parent
    return tuple(reversed(path))
