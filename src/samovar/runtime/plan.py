"""Whether a model fits beside those that are loaded, before anything of it is.

The sums are made of the file's header: weights, cells, buffers. Of a context whose length nobody
gave, only as much is needed as makes a useful one; its worker takes more where there is more. Where
all models share a limit (`memory_bytes`), what a model takes is settled here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from samovar import gguf
from samovar.config import WorkerConfig
from samovar.errors import OutOfMemory, SamovarError

Layout = Literal["lanes", "pool"]

_LEAST_CONTEXT = 4096  # tokens: what a worker makes where memory allows no more
_MICRO_BATCH = 512


@dataclass(frozen=True, slots=True)
class Need:
    """What a model takes in memory, in bytes."""

    weights: int
    context: int
    config: WorkerConfig
    """With the length and the layout that this is the sum of."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.context


def least_need(path: str, config: WorkerConfig) -> Need | None:
    """What the model cannot do without; None: its worker says better what is wrong with the file.

    Sequences share their cells, unless lanes are asked for.
    """
    header = _header(path)
    if header is None:
        return None
    trained = header.n_ctx_train or _LEAST_CONTEXT
    length = config.context_length or min(trained, _LEAST_CONTEXT)
    layout: Layout = "lanes" if config.kv_layout == "lanes" else "pool"
    return _need(header, replace(config, context_length=length, kv_layout=layout))


def best_need(path: str, config: WorkerConfig, room: int) -> Need | None:
    """The most useful shape of a context that fits into `room` bytes with the weights.

    As long as it was trained, halved until it fits, in lanes if they do; None: no shape fits, or
    the file is not what it should be.
    """
    header = _header(path)
    if header is None:
        return None
    trained = header.n_ctx_train or _LEAST_CONTEXT
    length = config.context_length or trained
    layouts: tuple[Layout, ...] = ("lanes", "pool")
    if config.kv_layout != "auto":
        layouts = (config.kv_layout,)
    while True:
        for layout in layouts:
            shaped = replace(config, context_length=length, kv_layout=layout)
            need = _need(header, shaped)
            if need.total <= room:
                return need
        if config.context_length or length <= min(trained, _LEAST_CONTEXT):
            return None
        length = max(min(trained, _LEAST_CONTEXT), length // 2)


def refusal(need: Need, room: int, num_others: int) -> OutOfMemory:
    """Why a model cannot be loaded now: what it needs, what there is, what would help."""
    config = need.config
    beside = f" beside {num_others} loaded and busy" if num_others else ""
    return OutOfMemory(
        f"not enough memory: the model needs {_size(need.total)} ({_size(need.weights)} of weights,"
        f" {_size(need.context)} for a context of {config.context_length} tokens x"
        f" {config.num_sequences} sequences) and {_size(max(0, room))} are left{beside};"
        " ask for a smaller context (--ctx-size) or fewer sequences, use a smaller model, or unload"
        " one"
    )


def _need(header: gguf.Header, config: WorkerConfig) -> Need:
    shape = gguf.ContextShape(
        config.context_length,
        1 if config.kv_layout == "pool" else config.num_sequences,
        max(config.batch_size, config.num_sequences),
        min(_MICRO_BATCH, config.batch_size),
        config.type_k,
        config.type_v,
    )
    return Need(gguf.weights_bytes(header), gguf.context_bytes(header, shape), config)


def _header(path: str) -> gguf.Header | None:
    try:
        header = gguf.read_header(Path(path))
        gguf.check(header)
    except SamovarError:
        return None
    return header


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
