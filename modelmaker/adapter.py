"""LoRA adapters: a change of low rank to some matrices of a model.

To the product of a matrix with its input, llama.cpp adds alpha / rank * B A input, where A is
`<tensor>.lora_a` with rank rows and B is `<tensor>.lora_b` with rank columns (src/llama-adapter.cpp
and build_lora_mm in src/llama-graph.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, quants

from modelmaker.gguf_file import Entry, real, text, write
from modelmaker.gguf_head import Head, TensorInfo, read_head
from modelmaker.quantization import chunks
from modelmaker.tensor import Matrix

USUAL_TENSORS = ("attn_q", "attn_v", "shortconv.in_proj", "ssm_in")
"""Matrices that adapters usually change, of every kind of generating model."""

_SAMPLED_ROWS = 64


def build_adapter(  # noqa: PLR0913 - each is one property of the adapter
    path: str | Path,
    base_path: str | Path,
    *,
    rank: int = 4,
    alpha: float = 8.0,
    seed: int = 1,
    strength: float = 1.0,
    tensors: Sequence[str] = USUAL_TENSORS,
    name: str = "adapter made of noise",
) -> Path:
    """Write a random LoRA adapter for the model in `base_path`; same arguments, same bytes.

    strength: size of the change to each matrix relative to the size of the matrix itself.
    tensors: the matrices to change, named without block number and ".weight"; those that the
        model does not have are passed over, but ValueError if it has none of them.
    """
    if rank < 1 or alpha == 0:
        raise ValueError(f"a rank of {rank} and an alpha of {alpha:g} change nothing")
    base = read_head(Path(base_path))
    chosen = [info for info in base.tensors.values() if _plain_name(info.name) in tensors]
    if not chosen:
        raise ValueError(f"{base_path} has none of the tensors {', '.join(tensors)}")
    entries: list[Entry] = []
    for info in chosen:
        entries += _pair(info, rank, strength * _size(base, info) * rank**0.5 / alpha, seed)
    metadata = {
        "general.type": text("adapter"),
        "general.name": text(name),
        "adapter.type": text("lora"),
        "adapter.lora.alpha": real(alpha),
    }
    write(Path(path), base.architecture, metadata, entries)
    return Path(path)


def _plain_name(name: str) -> str:
    """`attn_q` of `blk.0.attn_q.weight`; the biases keep their ending and match nothing."""
    return name.split(".", 2)[-1].removesuffix(".weight")


def _pair(info: TensorInfo, rank: int, size: float, seed: int) -> list[Entry]:
    """A and B, whose product times alpha / rank has the size asked for."""
    rows, columns = info.shape
    down = Matrix(f"{info.name}.lora_a", rank, columns, columns**-0.5)
    up = Matrix(f"{info.name}.lora_b", rows, rank, size * columns**0.5)
    return [_entry(down, seed), _entry(up, seed)]


def _entry(matrix: Matrix, seed: int) -> Entry:
    kind = GGMLQuantizationType.F32
    made = chunks(matrix, kind, seed, direct=False)
    return Entry(matrix.name, (matrix.rows, matrix.columns), kind, made)


def _size(base: Head, info: TensorInfo) -> float:
    """Standard deviation of the matrix, judged by its first rows."""
    rows = base.rows(info, _SAMPLED_ROWS)
    return float(np.std(quants.dequantize(rows, info.kind)))
