"""A plan: everything a model file is to hold, before any of its numbers are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gguf.gguf_writer import GGUFValue

from modelmaker.shape import Shape
from modelmaker.tensor import Floats, Matrix, Tensor


@dataclass(frozen=True)
class Order:
    """What is asked of a kind: the sizes, the vocabulary's effect on them, the seed."""

    shape: Shape
    context_length: int
    vocabulary_size: int
    row_gain: Floats
    """One factor for each token's row of the embedding or output matrix."""
    seed: int
    ranks: bool = False
    """Whether the model is to have a head that scores a pair of texts."""


@dataclass(frozen=True)
class Plan:
    """Architecture name, the metadata under that name (without it), and the tensors."""

    architecture: str
    metadata: Mapping[str, GGUFValue]
    tensors: list[Tensor]


def projection(name: str, rows: int, columns: int, gain: float = 1.0) -> Matrix:
    """A matrix that turns inputs of size 1 into outputs of size `gain`."""
    return Matrix(f"{name}.weight", rows, columns, gain / columns**0.5)


def embedding(order: Order, deviation: float, *, weak: bool) -> Matrix:
    """The matrix of token embeddings; `weak` where its rows also are the output's."""
    gain = order.row_gain if weak else None
    size = order.vocabulary_size
    return Matrix("token_embd.weight", size, order.shape.width, deviation, gain)


def output(order: Order, deviation: float) -> Matrix:
    """An output matrix of its own."""
    size = order.vocabulary_size
    return Matrix("output.weight", size, order.shape.width, deviation, order.row_gain)
