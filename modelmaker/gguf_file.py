"""A GGUF file written in one pass, one chunk of one tensor in memory at a time.

The gguf package writes the head (magic, metadata, list of tensors); the data follows it, each
tensor starting at a multiple of 32 bytes, the default alignment of the format.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT
from gguf.gguf_writer import GGUFValue
from numpy.typing import NDArray

Metadata = Mapping[str, GGUFValue]


@dataclass(frozen=True)
class Entry:
    """One tensor of the file: what the head says of it, and its bytes in order."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    chunks: Iterable[NDArray[np.uint8]]

    @property
    def size(self) -> int:
        """Length in bytes."""
        block, block_bytes = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // int(block) * int(block_bytes)


def text(value: str) -> GGUFValue:
    """A string of the metadata."""
    return GGUFValue(value, GGUFValueType.STRING)


def count(value: int) -> GGUFValue:
    """A uint32 of the metadata, the type of nearly all its whole numbers."""
    return GGUFValue(value, GGUFValueType.UINT32)


def real(value: float) -> GGUFValue:
    """A float32 of the metadata."""
    return GGUFValue(value, GGUFValueType.FLOAT32)


def flag(*, on: bool) -> GGUFValue:
    """A truth value of the metadata."""
    return GGUFValue(on, GGUFValueType.BOOL)


def listing(
    values: list[str] | list[int] | list[float], kind: GGUFValueType = GGUFValueType.INT32
) -> GGUFValue:
    """An array of the metadata whose elements have that type."""
    return GGUFValue(values, GGUFValueType.ARRAY, kind)


def general(name: str, file_type: LlamaFileType | None) -> dict[str, GGUFValue]:
    """The general.* metadata of a model, or of a vocabulary alone when there is no file type."""
    found = {"general.type": text("model"), "general.name": text(name)}
    if file_type is not None:
        found["general.file_type"] = count(int(file_type))
        found["general.quantization_version"] = count(2)
    return found


def write(path: Path, architecture: str, metadata: Metadata, entries: list[Entry]) -> None:
    """Write the file, under another name until it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _write_head(part, architecture, metadata, entries)
        with part.open("ab") as file:
            _align(file)
            for entry in entries:
                _write_tensor(file, entry)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_head(path: Path, architecture: str, metadata: Metadata, entries: list[Entry]) -> None:
    writer = GGUFWriter(path, architecture)
    for key, value in metadata.items():
        writer.add_key_value(key, value.value, value.type, value.sub_type)
    for entry in entries:
        # The dtype is only read where no raw type is given.
        dtype = np.dtype(np.float32)
        writer.add_tensor_info(entry.name, entry.shape, dtype, entry.size, entry.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def _write_tensor(file: BinaryIO, entry: Entry) -> None:
    start = file.tell()
    for chunk in entry.chunks:
        file.write(chunk.data)
    if file.tell() - start != entry.size:
        raise AssertionError(f"{entry.name}: {file.tell() - start} bytes, not {entry.size}")
    _align(file)


def _align(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % GGUF_DEFAULT_ALIGNMENT))
