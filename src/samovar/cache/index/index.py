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

from samovar.cache.block import ROWS
from samovar.cache.index import policy
from samovar.cache.index.audit import audit
from samovar.cache.index.node import TIERS, About, Copy, Node, Tier
from samovar.cache.index.tree import Tree
from samovar.cache.keys import TOKEN_BYTES, Key, block_key, pack_tokens

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
        self._tree = Tree()

    def __len__(self) -> int:
        """Blocks of rows that are known, placeholders included."""
        return len(self._tree.rows)

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
        node = self._tree.node(about)
        if not node.tiers:
            self._warm(node, now)
        self._tree.change(node, tier, Copy(nbytes, logits_bytes), seconds)
        return node

    def discard(self, node: Node, tier: Tier) -> None:
        """There is no copy in this tier any more (if there was one)."""
        if node.tiers & tier.bit:
            self._tree.change(node, tier, None)

    def get(self, key: Key, kind: str = ROWS) -> Node | None:
        """The block of that name, if it is in a tier."""
        return self._tree.get(key, kind)

    def nodes(self, tier: Tier | None = None) -> Iterator[Node]:
        """The blocks in a tier, or in any; parents are not always before their children."""
        mask = sum(t.bit for t in TIERS) if tier is None else tier.bit
        return (node for node in self._tree.all() if node.tiers & mask)

    def bytes_of(self, tier: Tier) -> int:
        """How many bytes the blocks in a tier take."""
        return self._tree.queues[tier].nbytes

    def count_of(self, tier: Tier) -> int:
        """How many blocks are in a tier."""
        return self._tree.queues[tier].count

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
        best, best_state, best_score = self._tree.root, None, (0, 0)
        waiting: list[tuple[Node, Node | None]] = [(self._tree.root, None)]
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
                child = self._tree.rows.get(block_key(namespace, node.key, piece))
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
            self._tree.hold(node)

    def release(self, nodes: Iterable[Node]) -> None:
        """Give leased blocks back. Raises ValueError at one that is not leased."""
        for node in nodes:
            if not node.leases:
                raise ValueError("a block that is not leased cannot be released")
            node.leases -= 1
            self._tree.let_go(node)

    def pin(self, key: Key) -> None:
        """Keep the rows and the state of this name, and what they hang on, whenever they exist."""
        if key not in self._tree.pins:
            self._tree.pins.add(key)
            for node in self._tree.named(key):
                self._tree.hold(node)

    def unpin(self, key: Key) -> None:
        """They may go again."""
        if key in self._tree.pins:
            self._tree.pins.discard(key)
            for node in self._tree.named(key):
                self._tree.let_go(node)

    def pins(self) -> frozenset[Key]:
        """The names that are pinned, of blocks that exist or not."""
        return frozenset(self._tree.pins)

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
            for node in self._tree.named(key):
                level = policy.level_of(heat, min(when, now), self._half_life)
                node.rank = level + node.density
        for node in sorted(self.nodes(), key=lambda node: (node.end, node.kind), reverse=True):
            if node.parent is not None and node.parent.tiers:
                node.parent.rank = max(node.parent.rank, node.rank)
        for queue in self._tree.queues:
            queue.rebuild()

    def victims(self, tier: Tier, need_bytes: int) -> list[Node]:
        """Blocks whose going frees so many bytes of a tier, or all that may go if fewer.

        Children come before their parents, apart from that those of least worth first. Nothing
        changes by asking: call `discard` for each when its copy is gone.
        """
        return self._tree.queues[tier].victims(need_bytes)

    def check(self) -> list[str]:
        """What contradicts itself in here; visits everything."""
        return audit(self._tree)

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
