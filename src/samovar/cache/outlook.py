"""What a prompt would find in the cache: how much, where, and why no more. No side effect.

The engine decides the same when it admits a request, knowing besides what lies in its own cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samovar.cache.explain import reason
from samovar.cache.index.index import Match
from samovar.cache.index.node import TIERS, Node
from samovar.cache.store import BlockStore, Scope
from samovar.config import CacheConfig
from samovar.types import Cached, Divergence


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a request with a prompt would be spared."""

    prompt_tokens: int
    cached: Cached
    divergence: Divergence


@dataclass(frozen=True, slots=True)
class Needs:
    """What whoever restores wants of the cache."""

    is_state: bool
    """A state must be at the end of what is restored: rows alone are not enough."""
    least: int
    """Fewer tokens are not worth bringing."""


def outlook(
    store: BlockStore, scope: Scope, tokens: Sequence[int], needs: Needs, config: CacheConfig
) -> Outlook:
    """What is known of these tokens now."""
    total = len(tokens)
    if total < config.min_tokens:
        return Outlook(total, Cached(), Divergence(0, "short"))
    plain = store.match(scope, tokens)
    match = store.match(scope, tokens, needs_state=True) if needs.is_state else plain
    nodes = _restorable(match, total) if needs.is_state else match.path
    end = nodes[-1].end if nodes else 0
    # What follows the last token is computed, unless it was stored too.
    reach = min(end, total - 1)
    brought = total if end == total and nodes[-1].logits_bytes else reach
    cached = _by_tier(nodes, brought) if reach >= needs.least else Cached()
    if reach == total - 1:
        return Outlook(total, cached, Divergence(total, "none"))
    if needs.is_state and plain.length > end:
        return Outlook(total, cached, Divergence(reach, "no_checkpoint"))
    why = reason(store, scope, tokens, plain, config.block_size)
    return Outlook(total, cached, Divergence(reach, why))


def _restorable(match: Match, total: int) -> tuple[Node, ...]:
    """The rows of a path up to the last usable state, and that state in place of its rows."""
    for count in range(len(match.path), 0, -1):
        node = match.path[count - 1]
        state = node.state
        if state is not None and state.tiers and (node.end < total or state.logits_bytes):
            return (*match.path[: count - 1], state)
    return ()


def _by_tier(nodes: tuple[Node, ...], length: int) -> Cached:
    """How many of the first tokens come from where: the fastest tier that has them."""
    found = dict.fromkeys(("memory", "shm", "disk"), 0)
    for node in nodes:
        tier = next(tier for tier in TIERS if node.tiers & tier.bit)
        found[tier.name.lower()] += max(0, min(node.end, length) - node.start)
    return Cached(**found)
