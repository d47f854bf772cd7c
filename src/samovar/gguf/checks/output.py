"""The width of embeddings: what the file says, and what the last matrices make.

llama.cpp reads as many numbers for each embedding as the file states, whatever the graph has made
(`extract_outputs` in src/llama-context.cpp): more than there are end the process.
"""

from __future__ import annotations

from samovar.gguf.checks.keys import count_key, refuse
from samovar.gguf.header import Header

MAX_WIDTH = 1 << 20
# Applied to embeddings after the last layer, one after the other (`build_dense_out` in
# src/llama-graph.cpp), by the architectures that load them.
PROJECTIONS = {
    "gemma-embedding": ("dense_2.weight", "dense_3.weight"),
    "gemma3": ("dense_2.weight", "dense_3.weight"),
    "lfm2": ("dense_2.weight",),
    "lfm2moe": ("dense_2.weight",),
}
# They put a width of their own in the place of what is stated.
OWN_WIDTH = frozenset({"deepseek4", "qwen4exp"})


def check_output(header: Header) -> None:
    """Raises MalformedGGUF."""
    key, width = header.of_arch("embedding_length_out"), header.n_embd or 0
    stated = count_key(header, key, 0, MAX_WIDTH) or width
    tensors = {tensor.name: tensor for tensor in header.tensors}
    made = width
    for name in PROJECTIONS.get(header.architecture or "", ()):
        if name not in tensors:
            continue
        columns, rows = (*tensors[name].shape, 1)[:2]
        if columns != made:
            raise refuse(header, f"{name} takes embeddings of {columns} numbers, and gets {made}")
        made = rows
    if made != stated and header.architecture not in OWN_WIDTH:
        raise refuse(header, f"embeddings have {made} numbers, and {key} should be that")
