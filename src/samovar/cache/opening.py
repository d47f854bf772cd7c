"""Opens the cache of a model as a configuration says."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from samovar.cache.files.tier import FileTier
from samovar.cache.house import House, lodge
from samovar.cache.index.node import Tier
from samovar.cache.keys import Field, Namespace
from samovar.cache.machine.gauge import Source
from samovar.cache.machine.pressure import Pressure
from samovar.cache.machine.wear import Wear
from samovar.cache.store import BlockStore, Budgets, Watch, wall_clock
from samovar.cache.weights import weights_digest
from samovar.config import CacheConfig

_GIB = 2**30
_MEMORY_PART, _MOST_MEMORY = 8, 4 * _GIB
_DISK_PART, _MOST_DISK = 10, 20 * _GIB
_MEMO = "weights.json"
_WRITTEN = "written"


def namespace_of(
    state: dict[str, str | int | float | bool | None],
    weights: Sequence[Path],
    config: CacheConfig,
    *,
    grid: str | None = None,
) -> Namespace:
    """What decides the bytes of a model's blocks besides tokens, adapters and salt.

    `state` is what the backend says of its states; `grid` how it cuts what it computes, where every
    bit counts (None: nowhere). Reads the whole of the weights, once per file. Raises LoadFailed
    where that fails.
    """
    fields: dict[str, Field] = dict(state)
    fields["block_size"] = config.block_size
    if grid is not None:  # rows of a fixed grid, which others' blocks are not
        fields["grid"] = grid
    if weights:
        fields["weights"] = weights_digest(weights, _memo(config))
    return Namespace(fields)


def open_store(
    namespace: Namespace, config: CacheConfig, sources: Sequence[Source] = ()
) -> BlockStore:
    """The cache of a namespace. A tier that cannot be used is left out, and says so.

    Namespaces that nobody used for a while go, and so do those in the way of this one (`house`).
    `sources` are accounts of memory that the machine's own files do not show, such as a GPU's.
    """
    files: dict[Tier, FileTier] = {}
    if config.shm_bytes:
        files[Tier.SHM] = lodge(config.shm_directory, namespace, config.shm_bytes, is_durable=False)
    disk = disk_budget(config)
    if disk:
        files[Tier.DISK] = lodge(config.directory, namespace, disk, is_durable=True)
    budgets = Budgets(memory_budget(config), config.write_queue_bytes, config.checkpoint_share)
    return BlockStore(namespace, files, budgets, _watch(config, files, sources))


def _watch(config: CacheConfig, files: Mapping[Tier, FileTier], sources: Sequence[Source]) -> Watch:
    shm, disk = files.get(Tier.SHM), files.get(Tier.DISK)
    pressure = Pressure(
        shm=None if shm is None else config.shm_directory,
        disk=None if disk is None else config.directory,
        sources=sources,
    )
    wear = None
    if disk is not None and config.disk_bytes_per_day is not None:
        wear = Wear(disk.path / _WRITTEN, config.disk_bytes_per_day, wall_clock)
    return Watch(pressure, wear)


def memory_budget(config: CacheConfig) -> int:
    """Bytes of the memory tier."""
    if config.memory_bytes is not None:
        return config.memory_bytes
    total = Pressure().sample().memory_total  # of a container its limit, not the machine's
    if total is None:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(total // _MEMORY_PART, _MOST_MEMORY)


def disk_budget(config: CacheConfig) -> int:
    """Bytes of the disk tier, for all models; what it has already counts as free."""
    if config.disk_bytes is not None:
        return config.disk_bytes
    there = next(
        (one for one in (config.directory, *config.directory.parents) if one.exists()), Path("/")
    )
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        return 0
    free += House(config.directory).used_bytes()
    return min(free // _DISK_PART, _MOST_DISK)


def _memo(config: CacheConfig) -> Path:
    """Beside the directory of the blocks: it is of use to every model."""
    return config.directory.parent / _MEMO
