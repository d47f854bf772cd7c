"""Tensors of a made model, described before their numbers exist.

Shapes are in numpy order (rows, columns); GGUF and llama.cpp list the same dimensions reversed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Matrix:
    """A matrix of independent normal numbers, stored in the quantisation of the file."""

    name: str
    rows: int
    columns: int
    deviation: float
    row_gain: Floats | None = None
    """One factor for each row, where some rows are to be weaker than others."""


@dataclass(frozen=True)
class Constant:
    """Numbers that are known now, always stored as F32.

    llama.cpp's kernels take norms, biases, convolutions and state-space parameters as F32 only.
    """

    name: str
    values: Floats


Tensor = Matrix | Constant


def generator(seed: int, name: str) -> np.random.Generator:
    """The source of randomness of one tensor: the same whatever other tensors there are."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def ones(name: str, size: int) -> Constant:
    """A norm that only normalises."""
    return Constant(name, np.ones(size, np.float32))


def level(name: str, size: int, value: float) -> Constant:
    """A vector with the same value everywhere."""
    return Constant(name, np.full(size, value, np.float32))


def noise(name: str, shape: tuple[int, ...], deviation: float, seed: int) -> Constant:
    """Small normal numbers for a bias or a convolution."""
    values = generator(seed, name).standard_normal(shape, np.float32)
    return Constant(name, values * np.float32(deviation))


def signs(name: str, size: int, value: float, seed: int) -> Constant:
    """A norm of one strength whose elements have random signs.

    As the norm before a tied output matrix it makes a token's own embedding orthogonal, not equal,
    to the direction that predicts the token, or else random models repeat their last token.
    """
    flips = generator(seed, name).integers(0, 2, size, np.int8)
    return Constant(name, (2 * flips - 1).astype(np.float32) * np.float32(value))
