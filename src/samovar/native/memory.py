"""What a model and its context will take, against what this machine has free.

llama.cpp allocates first and the kernel kills later, so the sums are done before. They are
estimates: weights as large as the file, KV cells by the model's own numbers, and compute buffers
of which the logits are the largest part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from samovar import gguf
from samovar.errors import OutOfMemory

if TYPE_CHECKING:
    from samovar.native.context import ContextOptions

_GIB = 2**30
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_LEAST_CONTEXT = 4096
_ACTIVATION_FLOATS = 16  # rows of the width of the model that one token of a micro-batch keeps live


class _Names(NamedTuple):
    """Where a cgroup says what it may use and uses."""

    limit: str
    used: str
    files: tuple[str, str]


_V2 = _Names("memory.max", "memory.current", ("active_file", "inactive_file"))
_V1 = _Names(
    "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")
)


def available_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """Memory that can be had now without swapping: the kernel's figure, within the cgroup's limits.

    None where the system does not say.
    """
    return min([*_meminfo(proc), *_cgroup_rooms(proc, cgroups)], default=None)


def _meminfo(proc: Path) -> Iterator[int]:
    with suppress(OSError):
        for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _cgroup_rooms(proc: Path, cgroups: Path) -> Iterator[int]:
    """Room under each memory limit that holds for this process, its parents' too."""
    try:
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if not controllers:
            root, names = cgroups, _V2
        elif "memory" in controllers.split(","):
            root, names = cgroups / "memory", _V1
        else:
            continue
        own = PurePosixPath(place.lstrip("/"))
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError, KeyError):  # no such folder, or no limit there
                yield _room(root / folder, names)


def _room(folder: Path, names: _Names) -> int:
    """What is left under one limit. Of the page cache, files can be given back, tmpfs cannot."""
    limit = int((folder / names.limit).read_text(encoding="ascii"))
    used = int((folder / names.used).read_text(encoding="ascii"))
    stat = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
    return max(0, limit - used + sum(int(stat[name]) for name in names.files))


def check_weights(header: gguf.Header) -> None:
    """Raise OutOfMemory when the weights alone cannot fit."""
    _require(gguf.weights_bytes(header), "its weights need", "use a smaller model or quantisation")


def check_context(header: gguf.Header, options: ContextOptions, mapped_bytes: int = 0) -> None:
    """Raise OutOfMemory when the cells and buffers of a context cannot fit.

    `mapped_bytes` of weights are needed beside it, though the kernel counts them as free.
    """
    what = f"a context of {options.context_length} tokens x {options.num_sequences} sequences"
    _require(
        context_bytes(header, options) + mapped_bytes,
        f"{what} beside the weights needs" if mapped_bytes else f"{what} needs",
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
            f"not enough memory: {what} {need / _GIB:.1f} GiB and {available / _GIB:.1f} GiB are"
            f" free; {advice}"
        )
