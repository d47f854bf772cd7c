"""Caches to try: small ones, whose file work is done when the test says so, and what must be so.

`HandTransfer` does the work of the i/o thread on the thread that asks, so that the same test does
the same thing twice; `check_cache` finds what contradicts itself between an engine and its cache.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from samovar.cache import store as store_module
from samovar.cache.files.tier import FileTier
from samovar.cache.index.node import TIERS, Tier
from samovar.cache.keys import Namespace
from samovar.cache.machine.pressure import Sample
from samovar.cache.opening import namespace_of
from samovar.cache.store import BlockStore, Budgets
from samovar.cache.transfer import Transfer
from samovar.config import CacheConfig
from samovar.engine.engine import Engine
from samovar.engine.scopes import Cache
from samovar.engine.sequence import Phase
from samovar.native.interface import Backend

PLENTY = 2**26
"""Bytes: more than any cache here comes to."""

FLUSH_SECONDS = 60.0
"""More than the file work of any test takes: who waits longer has found a bug."""


class HandTransfer(Transfer):
    """The work of the i/o thread, when it is asked for."""

    def __init__(
        self,
        tiers: Mapping[Tier, FileTier],
        queue_bytes: int,
        sample: Callable[[], Sample] | None = None,  # noqa: ARG002 - machines are not looked at
    ) -> None:
        super().__init__({}, queue_bytes)  # without a tier, there is no thread
        self._tiers = dict(tiers)

    def work(self, most: int | None = None) -> None:
        """Do so many things that are to be done, or all."""
        done = 0
        while self._has_work() and done != most:
            work = self._next()
            assert work is not None
            self._carry_out(work)
            done += 1

    def wait(self, seconds: float) -> None:  # noqa: ARG002 - nobody else works
        """See Transfer: something comes back."""
        self.work(1)

    def flush(self, seconds: float) -> bool:  # noqa: ARG002
        """See Transfer."""
        self.work()
        return True

    def look(self) -> None:
        """Look for what other processes did."""
        for tier in self._tiers:
            self._look(tier)

    def crash(self) -> None:
        """Forget everything that is to be done, as the end of a process does."""
        self._reads.clear()
        self._jobs.clear()
        self._writes.clear()


@dataclass(frozen=True)
class Place:
    """Where a cache lies, and how it is used."""

    folder: Path
    config: CacheConfig
    is_by_hand: bool = True
    tier: Callable[..., FileTier] = FileTier
    opened: list[BlockStore] = field(default_factory=list)

    def open(self, backend: Backend, *, is_deterministic: bool = False) -> Cache:
        """The cache of a model. Nothing is synced: here, nobody loses power."""
        namespace = namespace_of(
            backend.describe_state(),
            backend.weights_paths,
            self.config,
            grid=backend.describe_grid() if is_deterministic else None,
        )
        return Cache(self.store(namespace), self.config)

    def store(self, namespace: Namespace) -> BlockStore:
        """The blocks of a namespace."""
        config = self.config
        wanted = {Tier.SHM: config.shm_bytes, Tier.DISK: config.disk_bytes or 0}
        files = {
            tier: self.tier(self.folder / tier.name.lower(), namespace, budget, is_durable=False)
            for tier, budget in wanted.items()
            if budget
        }
        budgets = Budgets(
            config.memory_bytes or 0, config.write_queue_bytes, config.checkpoint_share
        )
        transfer = HandTransfer if self.is_by_hand else store_module.Transfer
        with patch.object(store_module, "Transfer", transfer):
            self.opened.append(BlockStore(namespace, files, budgets))
        return self.opened[-1]

    def close(self) -> None:
        """Give back what tests that end early leave open, or what died on purpose."""
        for store in self.opened:
            if not self.is_by_hand:
                transfer_of(store).close(10)
            for files in files_of(store).values():
                files.close()


def settings(**more: Any) -> CacheConfig:  # noqa: ANN401 - the fields of the configuration
    """A configuration for prompts of a hundred tokens."""
    usual = {
        "memory_bytes": PLENTY,
        "disk_bytes": PLENTY,
        "block_size": 16,
        "min_tokens": 8,
        "checkpoint_tokens": 64,
        "continued_tokens": 16,
    }
    return CacheConfig(**{**usual, **more})


@contextmanager
def place(
    *,
    is_by_hand: bool = True,
    tier: Callable[..., FileTier] = FileTier,
    **more: Any,  # noqa: ANN401 - the fields of the configuration
) -> Iterator[Place]:
    """A place in memory, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="samovar-test-"))
    found = Place(folder, settings(directory=folder / "kv", **more), is_by_hand, tier)
    try:
        yield found
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)


def transfer_of(store: BlockStore) -> Any:  # noqa: ANN401 - by hand or not
    """What does the file work of a store."""
    return store._transfer  # noqa: SLF001 - tests say when it works


def files_of(store: BlockStore) -> dict[Tier, FileTier]:
    """The file tiers of a store."""
    return store._files  # noqa: SLF001 - to look at from outside


# ---- what must be so ----------------------------------------------------------------------------


def check_cache(engine: Engine, cache: Cache) -> None:
    """After every step."""
    restoring = engine._caching._restoring  # noqa: SLF001 - who waits there has to be seated
    pending = restoring._pending  # noqa: SLF001
    seated = [one for one in engine.scheduler.seated if one.phase is Phase.RESTORING]
    waiting = [one.sequence for one in pending]
    assert len(waiting) == len(set(waiting)), "a sequence waits for blocks twice"
    assert set(seated) == set(waiting), "a sequence is restored that has no seat, or the reverse"
    assert not any(one.lease.is_closed for one in pending), "somebody waits for what it gave back"
    check_store(cache.store)
    if engine.options.is_deterministic:
        for one in engine.scheduler.running:
            assert one.num_saved <= one.num_prompt - 1
            assert one.num_saved % engine.backend.batch_size == 0, "saved beside the grid"


def check_store(store: BlockStore) -> None:
    """At any time."""
    assert store.check() == []
    assert store.index.bytes_of(Tier.MEMORY) <= store.memory_bytes
    for tier in TIERS:
        share = int(_budget(store, tier) * store._records.checkpoints.share)  # noqa: SLF001
        assert store._records.checkpoints.bytes_of(tier) <= share, (  # noqa: SLF001
            f"checkpoints take more than their share of {tier.name}"
        )


def check_chains(store: BlockStore) -> None:
    """Nothing hangs on what is gone. So it is where no file was lost.

    What is in memory may hang on what a file tier will have, or has refused since.
    """
    tiers = files_of(store) or [Tier.MEMORY]
    for tier in tiers:
        for node in store.index.nodes(tier):
            above = node.parent
            assert above is not None
            assert not above.end or above.tiers & tier.bit, (
                f"{node} is in {tier.name}, and {above} is not"
            )


def check_the_end_of(store: BlockStore, *, has_faults: bool = False) -> None:
    """When nobody uses it any more: what was taken is written, and nothing is held.

    `has_faults`: somebody harms its files, which are not looked at then.
    """
    assert store.flush(FLUSH_SECONDS)
    held = [node for node in store.index.nodes() if node.leases]
    assert not held, f"leased and never given back: {held}"
    assert transfer_of(store).queued_bytes == 0
    check_store(store)
    if has_faults:
        return
    for tier, files in files_of(store).items():
        used = files.used_bytes()
        assert used - _scopes_bytes(files) <= max(files.budget, _EMPTY), (
            f"{tier.name}: {used} of {files.budget} bytes"
        )
        assert files.check(deep=True) == []


_EMPTY = 2**16  # what a directory without blocks takes at most


def _budget(store: BlockStore, tier: Tier) -> int:
    if tier is Tier.MEMORY:
        return store.memory_bytes
    files = files_of(store).get(tier)
    return files.budget if files is not None else 0


def _scopes_bytes(files: FileTier) -> int:
    """What the readable forms of scopes take: one page for each salt and set of adapters."""
    return 4096 * len(list((files.path / "scopes").iterdir()))
