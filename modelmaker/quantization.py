"""Quantisations: the bytes of a random matrix in F32, F16, Q8_0 or Q4_0.

Q8_0 is a row of blocks of 32 numbers: one float16 scale and 32 int8. Q4_0 is the same with 16
bytes of nibbles, each nibble 8 above its value (ggml/src/ggml-common.h, block_q8_0, block_q4_0).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType, quants
from numpy.typing import NDArray

from modelmaker.tensor import Floats, Matrix, generator

Bytes = NDArray[np.uint8]

BLOCK = 32
CHUNK_NUMBERS = 1 << 22
"""Numbers that are in memory at a time: a matrix of any size is made in chunks of whole rows."""

QUANTIZATIONS: dict[str, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "F32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "F16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "Q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "Q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}

_BLOCK_TYPES = {
    GGMLQuantizationType.Q8_0: np.dtype([("scale", "<f2"), ("codes", "u1", BLOCK)]),
    GGMLQuantizationType.Q4_0: np.dtype([("scale", "<f2"), ("codes", "u1", BLOCK // 2)]),
}
_CODE_DEVIATION = {
    # Of int8 evenly spread over -127..127, and of nibbles over -7..7, the lowest code being a 0.
    GGMLQuantizationType.Q8_0: 73.5,
    GGMLQuantizationType.Q4_0: 4.18,
}


def quantization_named(name: str) -> tuple[GGMLQuantizationType, LlamaFileType]:
    """The tensor type and the file type of that name; ValueError names the known ones."""
    if name not in QUANTIZATIONS:
        known = ", ".join(QUANTIZATIONS)
        raise ValueError(f"unknown quantisation {name!r}, expected one of {known}")
    return QUANTIZATIONS[name]


def stored_type(matrix: Matrix, wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    """The type the matrix can have: rows that are no whole blocks stay F32."""
    return wanted if matrix.columns % BLOCK == 0 else GGMLQuantizationType.F32


def chunks(
    matrix: Matrix, kind: GGMLQuantizationType, seed: int, *, direct: bool
) -> Iterator[Bytes]:
    """The bytes of the matrix, a few rows at a time.

    `direct` makes the quantised blocks themselves at random instead of quantising normal numbers:
    many times faster and as good for measuring speed.
    """
    source = generator(seed, matrix.name)
    step = max(1, CHUNK_NUMBERS // matrix.columns)
    for start in range(0, matrix.rows, step):
        gain = _gain(matrix, start, min(start + step, matrix.rows))
        if direct and kind in _BLOCK_TYPES:
            yield _random_blocks(source, gain, matrix.columns, kind)
        else:
            yield _quantized(source, gain, matrix.columns, kind)


def _gain(matrix: Matrix, start: int, stop: int) -> Floats:
    """Standard deviation of each of these rows."""
    gain = np.full(stop - start, matrix.deviation, np.float32)
    return gain if matrix.row_gain is None else gain * matrix.row_gain[start:stop]


def _quantized(
    source: np.random.Generator, gain: Floats, columns: int, kind: GGMLQuantizationType
) -> Bytes:
    rows = source.standard_normal((len(gain), columns), np.float32)
    rows *= gain[:, None]
    packed: Bytes = quants.quantize(rows, kind).view(np.uint8).reshape(-1)
    return packed


def _random_blocks(
    source: np.random.Generator, gain: Floats, columns: int, kind: GGMLQuantizationType
) -> Bytes:
    blocks = np.empty((len(gain), columns // BLOCK), _BLOCK_TYPES[kind])
    variation = source.random(blocks.shape, np.float32) * np.float32(0.5) + np.float32(0.75)
    blocks["scale"] = variation * (gain[:, None] / np.float32(_CODE_DEVIATION[kind]))
    codes = source.bit_generator.random_raw(blocks["codes"].size // 8).view(np.uint8)
    _balance(codes, kind)
    blocks["codes"] = codes.reshape(blocks["codes"].shape)
    return blocks.view(np.uint8).reshape(-1)


def _balance(codes: Bytes, kind: GGMLQuantizationType) -> None:
    """Make the lowest code a zero, for it has no positive counterpart.

    Else all weights would lean to the negative side, and a model of such matrices says the same
    whatever it reads. Also ggml writes no int8 of -128, and some kernels negate every code.
    """
    if kind == GGMLQuantizationType.Q8_0:
        codes *= codes != 0x80
    else:
        codes |= ((codes & 0x0F) == 0).astype(np.uint8) << 3
        codes |= ((codes & 0xF0) == 0).astype(np.uint8) << 7
