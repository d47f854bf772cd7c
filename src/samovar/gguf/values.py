"""Metadata values: scalars, and arrays that stay in the file until they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Scalar = int | float | bool | str
NumericArray = NDArray[Any]


class ValueType(IntEnum):
    """The value types of GGUF metadata, with their numbers in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12

    @property
    def label(self) -> str:
        """Name for messages, such as `uint32`."""
        return self.name.lower()


# Little-endian numpy types; their item sizes are the sizes in the file.
NUMPY_TYPES: dict[ValueType, np.dtype[Any]] = {
    ValueType.UINT8: np.dtype("<u1"),
    ValueType.INT8: np.dtype("<i1"),
    ValueType.UINT16: np.dtype("<u2"),
    ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"),
    ValueType.INT32: np.dtype("<i4"),
    ValueType.FLOAT32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("?"),
    ValueType.UINT64: np.dtype("<u8"),
    ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT64: np.dtype("<f8"),
}


@dataclass(frozen=True, slots=True)
class ArrayRef:
    """Where an array lies in the file: `count` elements in `num_bytes` bytes at `offset`.

    Small numeric arrays (per-layer numbers) carry their bytes in `data`.
    """

    element_type: ValueType
    count: int
    offset: int
    num_bytes: int
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """One metadata value with the type that the file gives it."""

    type: ValueType
    value: Scalar | ArrayRef

    @property
    def label(self) -> str:
        """Type for messages, such as `uint32` or `array of string`."""
        if isinstance(self.value, ArrayRef):
            return f"array of {self.value.element_type.label}"
        return self.type.label


class StringArray(Sequence[str]):
    """The strings of one array, decoded one at a time.

    `data` holds the array as it stands in the file (for each string a 64-bit length, then its
    bytes); `starts` the position of each length in it. Bytes that are not UTF-8 decode to
    U+FFFD; `raw` gives them as they are.
    """

    def __init__(self, data: bytes, starts: NDArray[np.int64]) -> None:
        self._data = data
        self._starts = starts
        ends = np.append(starts[1:], len(data))
        self._ends = ends

    def __len__(self) -> int:
        return len(self._starts)

    def raw(self, index: int) -> bytes:
        """The bytes of one string. Raises IndexError."""
        return self._data[self._starts[index] + 8 : self._ends[index]]

    def raws(self) -> list[bytes]:
        """The bytes of every string."""
        data = self._data
        pairs = zip((self._starts + 8).tolist(), self._ends.tolist(), strict=True)
        return [data[start:end] for start, end in pairs]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.raw(index).decode("utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        return (raw.decode("utf-8", "replace") for raw in self.raws())
