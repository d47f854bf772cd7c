"""The head of a GGUF file: its metadata and its list of tensors.

The gguf package has a reader too, which makes several objects for every element of an array: some
8 seconds for a vocabulary of 128 thousand tokens, where this one takes a fraction of one.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 3, little-endian).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT
from gguf.gguf_writer import GGUFValue
from numpy.typing import NDArray

_NUMBERS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file: its shape in numpy order, its type, where its data starts."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int

    @property
    def row_bytes(self) -> int:
        """Length of one row in bytes."""
        block, block_bytes = GGML_QUANT_SIZES[self.kind]
        return self.shape[-1] // int(block) * int(block_bytes)


@dataclass(frozen=True)
class Head:
    """What a GGUF file says before its data."""

    path: Path
    metadata: dict[str, GGUFValue]
    tensors: dict[str, TensorInfo]

    @property
    def architecture(self) -> str:
        """The name of llama.cpp's architecture."""
        found = self.metadata.get("general.architecture")
        if found is None:
            raise ValueError(f"{self.path} names no architecture")
        return str(found.value)

    def rows(self, tensor: TensorInfo, limit: int) -> NDArray[np.uint8]:
        """The bytes of the tensor's first rows, at most `limit` of them."""
        number = min(limit, tensor.shape[0]) if len(tensor.shape) > 1 else 1
        size = number * tensor.row_bytes
        with self.path.open("rb") as file:
            file.seek(tensor.start)
            return np.frombuffer(file.read(size), np.uint8).reshape(number, tensor.row_bytes)


class _Cursor:
    """Reads one value after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def numbers(self, kind: GGUFValueType, length: int) -> list[int | float | bool]:
        found = np.frombuffer(self.data, np.dtype(_NUMBERS[kind]), length, self.at)
        self.at += found.nbytes
        return list(found.tolist())

    def size(self) -> int:
        (found,) = struct.unpack_from("<Q", self.data, self.at)
        self.at += 8
        return int(found)

    def kind(self) -> int:
        (found,) = struct.unpack_from("<I", self.data, self.at)
        self.at += 4
        return int(found)

    def string(self) -> str:
        start = self.at + 8
        self.at = start + self.size()
        return self.data[start : self.at].decode()

    def value(self) -> GGUFValue:
        kind = GGUFValueType(self.kind())
        if kind == GGUFValueType.STRING:
            return GGUFValue(self.string(), kind)
        if kind != GGUFValueType.ARRAY:
            return GGUFValue(self.numbers(kind, 1)[0], kind)
        element = GGUFValueType(self.kind())
        length = self.size()
        if element == GGUFValueType.STRING:
            return GGUFValue([self.string() for _ in range(length)], kind, element)
        return GGUFValue(self.numbers(element, length), kind, element)

    def tensor(self) -> TensorInfo:
        name = self.string()
        shape = tuple(self.size() for _ in range(self.kind()))[::-1]
        kind = GGMLQuantizationType(self.kind())
        return TensorInfo(name, shape, kind, self.size())


def read_head(path: Path) -> Head:
    """Read the head of the file; ValueError where it is no whole GGUF file."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is not a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _read(path, data)
            except (ValueError, struct.error) as error:
                raise ValueError(f"{path} is damaged: {error}") from error


def _read(path: Path, data: mmap.mmap) -> Head:
    cursor = _Cursor(data)
    cursor.at = 8
    tensor_count, value_count = cursor.size(), cursor.size()
    metadata = {cursor.string(): cursor.value() for _ in range(value_count)}
    found = [cursor.tensor() for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment")
    step = GGUF_DEFAULT_ALIGNMENT if alignment is None else int(alignment.value)
    base = cursor.at + -cursor.at % step
    tensors = {t.name: TensorInfo(t.name, t.shape, t.kind, base + t.start) for t in found}
    return Head(path, metadata, tensors)
