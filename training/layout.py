"""Where each weight of the decoder stands in a model file, and in which order its rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from training.shape import Shape

Weights = dict[str, NDArray[np.float32]]
"""Matrices and vectors by their names, either the decoder's or a model file's."""

TENSOR_NAMES = {
    "attention_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
"""A layer's parts in the decoder, and in a model file."""

_TURNED = ("query", "key")
"""llama.cpp turns neighbouring pairs of a head's rows, the decoder a row of each half."""


def file_names(shape: Shape) -> dict[str, str]:
    """The name in a model file of each weight that a decoder of the shape has.

    The embeddings serve as the output too.
    """
    layers = {
        f"layers.{layer}.{ours}.weight": f"blk.{layer}.{theirs}.weight"
        for layer in range(shape.layers)
        for ours, theirs in TENSOR_NAMES.items()
    }
    return {
        "embedding.weight": "token_embd.weight",
        **layers,
        "norm.weight": "output_norm.weight",
    }


def to_file(weights: Mapping[str, NDArray[np.float32]], shape: Shape) -> Weights:
    """The decoder's weights as a model file has them."""
    return {
        name: interleaved(weights[ours], shape.head_width) if _is_turned(ours) else weights[ours]
        for ours, name in file_names(shape).items()
    }


def from_file(tensors: Mapping[str, NDArray[np.float32]], shape: Shape) -> Weights:
    """The weights of a model file as the decoder has them. KeyError where one is missing."""
    return {
        ours: halved(tensors[name], shape.head_width) if _is_turned(ours) else tensors[name]
        for ours, name in file_names(shape).items()
    }


def _is_turned(name: str) -> bool:
    return name.split(".")[-2] in _TURNED


def interleaved(matrix: NDArray[np.float32], head_width: int) -> NDArray[np.float32]:
    """Rows of each head from halves to neighbouring pairs."""
    return _rows_exchanged(matrix, 2, head_width // 2)


def halved(matrix: NDArray[np.float32], head_width: int) -> NDArray[np.float32]:
    """Rows of each head from neighbouring pairs to halves."""
    return _rows_exchanged(matrix, head_width // 2, 2)


def _rows_exchanged(matrix: NDArray[np.float32], outer: int, inner: int) -> NDArray[np.float32]:
    heads = matrix.reshape(-1, outer, inner, matrix.shape[1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(matrix.shape)
