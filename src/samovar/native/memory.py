"""What a model and its context will take, against what this machine has free.

llama.cpp allocates first and the kernel kills later, so the sums are done before. They are
estimates: weights as large as the file, KV cells by the model's own numbers, and compute buffers
of which the logits are the largest part.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from samovar import gguf
from samovar.errors import OutOfMemory
from samovar.machine import available_bytes as available_bytes

if TYPE_CHECKING:
    from samovar.native.context import ContextOptions

_GIB = 2**30
_LEAST_CONTEXT = 4096


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
    lanes = 1 if options.layout == "pool" else options.num_sequences
    return gguf.context_bytes(
        header,
        gguf.ContextShape(
            options.context_length,
            lanes,
            options.context_length if options.full_window else options.batch_size,
            options.micro_batch_size,
            options.type_k,
            options.type_v,
        ),
    )


def _require(need: int, what: str, advice: str) -> None:
    available = available_bytes()
    if available is not None and need > available:
        raise OutOfMemory(
            f"not enough memory: {what} {need / _GIB:.1f} GiB and {available / _GIB:.1f} GiB are"
            f" free; {advice}"
        )
