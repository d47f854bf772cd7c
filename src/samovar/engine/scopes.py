"""The cache of an engine, and which part of it belongs to a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from samovar.cache.store import BlockStore, Scope
from samovar.config import CacheConfig
from samovar.engine.sequence import Sequence
from samovar.native.interface import Adapter


@dataclass(frozen=True, slots=True)
class Cache:
    """What an engine needs of a cache: the blocks, and when to keep what."""

    store: BlockStore
    config: CacheConfig


class Scopes:
    """Scopes by the adapters of a sequence and by who may see what it computes."""

    def __init__(self, store: BlockStore, adapters: Mapping[str, Adapter]) -> None:
        self._store = store
        self._adapters = adapters

    def of(self, sequence: Sequence) -> Scope:
        """The scope of a sequence whose adapters are loaded."""
        applied = tuple(
            (self._adapters[name].fingerprint.hex(), scale) for name, scale in sequence.adapters
        )
        return self._store.scope(applied, sequence.salt)
