"""What a model and its context will take, against what this machine has free.

llama.cpp allocates first and the kernel kills later, so the sums are done before. They are
estimates: weights as large as the file, KV cells by the model's own numbers, and compute buffers
of which the logits are the largest part.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from samovar import gguf
from samovar.errors import OutOfMemory

if TYPE_CHECKING:
    from samovar.native.context import ContextOptions

_GIB = 2**30
_LEAST_CONTEXT = 4096
_ACTIVATION_FLOATS = 16  # rows of the width of the model that one token of a micro-batch keeps live


def available_bytes() -> int | None:
    """Memory that can be had now without swapping: the kernel's figure, within the cgroup's limit.

    None where the system does not say.
    """
    figures = [figure for figure in (_meminfo(), _cgroup()) if figure is not None]
    return min(figures, default=None)


def _meminfo() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup() -> int | None:
    """Room under this process's own memory limit (cgroup v2), page cache counted as room."""
    try:
        place = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().split("::")[-1]
        folder = Path("/sys/fs/cgroup") / place.lstrip("/")
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        stat = dict(
            line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines()
        )
        return int(limit) - used + int(stat.get("file", 0))
    except (OSError, ValueError):
        return None


def check_weights(header: gguf.Header) -> None:
    """Raise OutOfMemory when the weights alone cannot fit."""
    _require(gguf.weights_bytes(header), "its weights", "use a smaller model or quantisation")


def check_context(header: gguf.Header, options: ContextOptions) -> None:
    """Raise OutOfMemory when the cells and buffers of a context cannot fit."""
    need = context_bytes(header, options)
    _require(
        need,
        f"a context of {options.context_length} tokens x {options.num_sequences} sequences",
        "ask for a smaller context (--ctx-size) or fewer sequences",
    )


def fitting_length(header: gguf.Header, options: ContextOptions) -> int:
    """The trained context length, halved until a context of it takes at most half of what is free.

    Not below 4,096 tokens: when not even that fits, the check that follows says so.
    """
    length = header.n_ctx_train or _LEAST_CONTEXT
    available = available_bytes()
    while available is not None and length > _LEAST_CONTEXT:
        if context_bytes(header, replace(options, context_length=length)) <= available // 2:
            break
        length = max(_LEAST_CONTEXT, length // 2)
    return length


def context_bytes(header: gguf.Header, options: ContextOptions) -> int:
    """Estimated bytes of a context with these options (see the module's docstring)."""
    kv = gguf.kv_bytes_per_token(header, options.type_k, options.type_v)
    lanes = 1 if options.layout == "pool" else options.num_sequences
    length = options.context_length
    cells = lanes * kv.lane_bytes(length, length if options.full_window else options.batch_size)
    width = header.n_embd or 0
    row = 4 * (_ACTIVATION_FLOATS * width + (header.vocab_size or 0))
    return cells + row * min(options.micro_batch_size, length)


def _require(need: int, what: str, advice: str) -> None:
    available = available_bytes()
    if available is not None and need > available:
        raise OutOfMemory(
            f"not enough memory: {what} need{'s' if what.startswith('a ') else ''}"
            f" {need / _GIB:.1f} GiB and {available / _GIB:.1f} GiB are free; {advice}"
        )
