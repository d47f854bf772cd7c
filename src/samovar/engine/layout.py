"""Lanes or a pool: how the cells of a context are laid out.

Lanes decode faster in company, restore bit by bit whatever else is resident, and cost as much
memory as the longest context for each of them. A pool shares its cells and its prefixes. So lanes
where the memory plan allows as many as are asked for, else the pool (figures in docs/engine.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from samovar import gguf
from samovar.native import memory
from samovar.native.context import ContextOptions

KvLayout = Literal["auto", "lanes", "pool"]

_SHARE = 0.5  # of what is free: the rest is for the weights' page cache, prompts and everyone else


def plan(
    header: gguf.Header, options: ContextOptions, kv_layout: KvLayout = "auto"
) -> ContextOptions:
    """The context to make: its layout, and its length where none is given.

    A given length is kept. Without one it is what the model was trained for, cut to what the
    memory plan allows for the layout, at least 4,096. `auto` takes lanes unless they would have
    to be shorter than the pool could be.
    """
    lanes = _sized(header, replace(options, layout="lanes"))
    pool = _sized(header, replace(options, layout="pool"))
    if kv_layout != "auto":
        return lanes if kv_layout == "lanes" else pool
    return lanes if _fits(header, lanes) and lanes.context_length >= pool.context_length else pool


def _sized(header: gguf.Header, options: ContextOptions) -> ContextOptions:
    if options.context_length:
        return options
    return replace(options, context_length=memory.fitting_length(header, options))


def _fits(header: gguf.Header, options: ContextOptions) -> bool:
    available = memory.available_bytes()
    return available is None or memory.context_bytes(header, options) <= _SHARE * available
