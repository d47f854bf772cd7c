"""What of a prompt is kept in a worker's cache: looking, pinning, letting go.

For the thread that steps. Prompts are token ids, and nothing here says any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from samovar.cache.house import House
from samovar.cache.index.node import Node, Tier
from samovar.cache.outlook import Needs, outlook
from samovar.cache.store import BlockStore, Scope
from samovar.config import CacheConfig
from samovar.engine.restoring import LEAST_GAIN
from samovar.errors import InvalidRequest
from samovar.native.interface import StateKind
from samovar.worker.loading import Served

_MAX_FLUSH_SECONDS = 60.0  # what waits to be written is at most write_queue_bytes


@dataclass(frozen=True, slots=True)
class Prompt:
    """Whose blocks are asked about."""

    tokens: Sequence[int]
    adapters: Sequence[tuple[str, float]] = ()
    """Names of loaded adapters, with their scales."""
    salt: str = ""
    """As a request's `cache_salt`, or its tenant where it has none."""


class Kept:
    """The cache of a served model, as people ask about it."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._needs_state = served.backend.state_kind is not StateKind.DIVISIBLE

    def explain(self, prompt: Prompt) -> dict[str, Any]:
        """What a request with a prompt would find: tokens by tier, and why no more.

        Computes nothing and reads no block. Raises InvalidRequest where nothing can be cached.
        """
        store, config = self._opened()
        needs = Needs(self._needs_state, LEAST_GAIN)
        found = outlook(store, self._scope(prompt), prompt.tokens, needs, config)
        cached, divergence = found.cached, found.divergence
        return {
            "prompt_tokens": found.prompt_tokens,
            "cached_tokens": {"memory": cached.memory, "shm": cached.shm, "disk": cached.disk},
            "computed_tokens": found.prompt_tokens - cached.total,
            "divergence": {"position": divergence.position, "reason": divergence.reason},
        }

    def pin(self, prompt: Prompt) -> int:
        """Keep what is there of a prompt until it is unpinned; returns how many tokens that is."""
        store, _ = self._opened()
        match = store.match(self._scope(prompt), prompt.tokens, needs_state=self._needs_state)
        node: Node | None = match.path[-1] if match.path else None
        if self._needs_state:
            node = match.state
        if node is None:
            return 0
        store.pin(node.key)
        return node.end

    def unpin(self, prompt: Prompt) -> int:
        """Give the longest pinned beginning of a prompt free; returns how many tokens it has."""
        store, _ = self._opened()
        pins = store.index.pins()
        for node in reversed(store.match(self._scope(prompt), prompt.tokens).path):
            if node.key in pins:
                store.pin(node.key, is_pinned=False)
                return node.end
        return 0

    def flush(self, seconds: float) -> bool:
        """Wait until what was taken is durable, or refused. False: not within the time."""
        store, _ = self._opened()
        return store.flush(min(seconds, _MAX_FLUSH_SECONDS))

    def _opened(self) -> tuple[BlockStore, CacheConfig]:
        store, config = self._served.store, self._served.cache
        if store is None or config is None:
            raise InvalidRequest(
                "there is no cache: it is off, or this model has no state that could be kept"
            )
        if Tier.DISK in store.refused:
            raise InvalidRequest(f"{store.refused[Tier.DISK]}; give another cache directory")
        # What other processes computed under other adapters is known by what lies beside it.
        for others in House(config.directory).adapters(store.namespace):
            store.scope(others)
        return store, config

    def _scope(self, prompt: Prompt) -> Scope:
        assert self._served.store is not None
        applied = self._served.engine.applied(tuple(prompt.adapters))
        return self._served.store.scope(applied, prompt.salt)
