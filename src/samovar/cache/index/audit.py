"""Finds what contradicts itself in an index. For tests, and for `check`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from samovar.cache.block import ROWS, STATE
from samovar.cache.index.node import ALL, TIERS, Node
from samovar.cache.index.queue import Queue
from samovar.cache.index.tree import Tree


def audit(tree: Tree) -> list[str]:
    """One line for each contradiction."""
    nodes = list(tree.all())
    below: dict[Node, Counter[int]] = defaultdict(Counter)
    held: Counter[Node] = Counter()
    for node in nodes:
        if node.parent is None:
            continue
        below[node.parent].update([ALL, *(tier for tier in TIERS if node.tiers & tier.bit)])
        held[node.parent] += bool(node.holds)
    found: list[str] = []
    for node in (tree.root, *nodes):
        holds = node.leases + held[node] + (bool(node.tiers) and node.key in tree.pins)
        if node.holds != holds:
            found.append(f"{node} says it is held {node.holds} times, not {holds}")
        if node.below != tuple(below[node][where] for where in range(ALL + 1)):
            found.append(f"{node} counts its children wrong: {node.below}")
    for node in nodes:
        found += _place(node, below)
    for queue in tree.queues:
        found += _queue(queue, nodes)
    return found


def _place(node: Node, below: dict[Node, Counter[int]]) -> Iterable[str]:
    if not (node.tiers or node.holds or below[node][ALL]):
        yield f"{node} is known for no reason"
    if node.tiers != sum(tier.bit for tier in TIERS if node.copies[tier] is not None):
        yield f"{node} has copies elsewhere"
    parent = node.parent
    if parent is None:
        if node.tiers or node.kind == STATE:
            yield f"{node} hangs on nothing"
    elif node.kind == STATE:
        if parent.state is not node or (node.key, node.end) != (parent.key, parent.end):
            yield f"{node} hangs on other rows"
    elif node.start != parent.end or node.num_tokens not in parent.lengths or node.kind != ROWS:
        yield f"{node} does not follow {parent}"


def _queue(queue: Queue, nodes: Iterable[Node]) -> Iterable[str]:
    copies = [copy for node in nodes if (copy := node.copies[queue.tier]) is not None]
    if queue.count != len(copies) or queue.nbytes != sum(copy.nbytes for copy in copies):
        yield f"{queue.tier.name}: {queue.count} blocks, {queue.nbytes} bytes are not what is there"
    covered = queue.covered()
    for node in nodes:
        if queue.may_go(node) and node not in covered:
            yield f"{queue.tier.name}: {node} may go, and nothing would find it"
