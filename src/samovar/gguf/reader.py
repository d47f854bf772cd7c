"""Reads GGUF headers (versions 2 and 3, little endian) without touching tensor data.

    byte    size  field
    0       4     magic, `GGUF`
    4       4     version, uint32
    8       8     number of tensors, uint64
    16      8     number of metadata pairs, uint64
    24            metadata pairs, each:
                      key       string: length as uint64, then UTF-8 bytes
                      type      uint32, a `ValueType`
                      value     a number of that type, a string, or for an array its element
                                type (uint32), its length (uint64) and its elements
                  tensor table, each:
                      name      string of at most 63 bytes
                      rank      uint32, at most 4
                      shape     rank x uint64, the row length first
                      type      uint32, see `TENSOR_TYPES`
                      offset    uint64, from the start of the tensor data, aligned
                  zeros up to a multiple of `general.alignment` (32 without it)
                  tensor data

Version 2 has the same layout. Version 1 had 32-bit lengths; llama.cpp dropped it, and so big
endian: a big-endian file shows by its version number. Reference: ggml/src/gguf.cpp.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from struct import Struct

from samovar.errors import LoadFailed, MalformedGGUF, ModelNotFound, UnsupportedModel
from samovar.gguf.cursor import Cursor, read_at
from samovar.gguf.foreign import HEAD_BYTES, explain
from samovar.gguf.header import Header, Part, identity_of
from samovar.gguf.show import shown
from samovar.gguf.tensor import TensorInfo
from samovar.gguf.values import NUMPY_TYPES, ArrayRef, Value, ValueType

VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
# The most that real files come near, times ten: 60 pairs, 2,000 tensors.
MAX_PAIRS = 1 << 14
MAX_TENSORS = 1 << 16
MAX_KEY_BYTES = 1 << 10
# The name must fit `ggml_tensor.name` with its closing zero (`GGML_MAX_NAME`).
MAX_TENSOR_NAME_BYTES = 63
MAX_RANK = 4
# The least that a pair (empty key, one byte) and a tensor (empty name, rank 0) take.
LEAST_PAIR_BYTES = 13
LEAST_TENSOR_BYTES = 24
# Numeric arrays up to this size (per-layer numbers) are kept with the header.
SMALL_ARRAY_BYTES = 1 << 13

STRUCTS = {
    ValueType.UINT8: Struct("<B"),
    ValueType.INT8: Struct("<b"),
    ValueType.UINT16: Struct("<H"),
    ValueType.INT16: Struct("<h"),
    ValueType.UINT32: Struct("<I"),
    ValueType.INT32: Struct("<i"),
    ValueType.FLOAT32: Struct("<f"),
    ValueType.UINT64: Struct("<Q"),
    ValueType.INT64: Struct("<q"),
    ValueType.FLOAT64: Struct("<d"),
}


def read_part(path: Path, index: int) -> tuple[Part, dict[str, Value], list[TensorInfo]]:
    """Reads one file. Raises ModelNotFound, MalformedGGUF, UnsupportedModel, LoadFailed."""
    descriptor = _open(path)
    try:
        found = os.fstat(descriptor)
        return _read_open_part(path, descriptor, found, index)
    except OSError as error:
        raise LoadFailed(
            f"{shown(path)} could not be read ({error.strerror}): check the disk it is on"
        ) from error
    finally:
        os.close(descriptor)


def read_single(path: Path) -> Header:
    """Reads one file as a header of its own, whatever it says about other parts."""
    part, metadata, tensors = read_part(path, 0)
    return Header(path, (part,), metadata, tuple(tensors))


def _open(path: Path) -> int:
    # Non-blocking, so that a named pipe does not hang; regular files do not care.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise ModelNotFound(f"{shown(path)} does not exist: check the path") from error
    except PermissionError as error:
        raise ModelNotFound(f"{shown(path)} may not be read: check its permissions") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelNotFound(f"{shown(path)} cannot be opened ({reason}): check the path") from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise ModelNotFound(f"{shown(path)} is a directory: give the .gguf file in it")
    raise ModelNotFound(f"{shown(path)} is not a regular file: give a .gguf file")


def _read_open_part(
    path: Path, descriptor: int, found: os.stat_result, index: int
) -> tuple[Part, dict[str, Value], list[TensorInfo]]:
    label = shown(path)
    _check_magic(label, descriptor, found.st_size)
    cursor = Cursor(descriptor, found.st_size, label)
    cursor.skip(4, "the magic number")
    version = _read_version(cursor, label)
    num_tensors = _read_count(cursor, label, "tensors", MAX_TENSORS, LEAST_TENSOR_BYTES)
    num_pairs = _read_count(cursor, label, "metadata pairs", MAX_PAIRS, LEAST_PAIR_BYTES)
    metadata = _read_metadata(cursor, label, num_pairs)
    alignment = _alignment(metadata, label)
    tensors = [_read_tensor(cursor, label, i, index) for i in range(num_tensors)]
    data_offset = cursor.position
    if tensors:
        data_offset = -(-data_offset // alignment) * alignment
    part = Part(path, version, found.st_size, alignment, data_offset, identity_of(found))
    return part, metadata, tensors


def _check_magic(label: str, descriptor: int, size: int) -> None:
    if size == 0:
        raise MalformedGGUF(f"{label} is empty: download it again")
    head = read_at(descriptor, 0, HEAD_BYTES)
    if not head.startswith(b"GGUF"[: len(head)]):
        raise MalformedGGUF(f"{label} {explain(head)}")


def _read_version(cursor: Cursor, label: str) -> int:
    version = cursor.u32("the version")
    if version in VERSIONS:
        return version
    if version == 1:
        raise UnsupportedModel(
            f"{label} is GGUF version 1, which llama.cpp no longer reads: get a newer file"
        )
    if version and not version & 0xFFFF:
        raise UnsupportedModel(
            f"{label} is big endian, made for another kind of processor: convert it with "
            "gguf-py's gguf_convert_endian.py, or get the little-endian file"
        )
    if 0 < version < 100:
        raise UnsupportedModel(
            f"{label} is GGUF version {version}, and this build knows versions up to "
            f"{VERSIONS[-1]}: update Samovar, or get a file of version {VERSIONS[-1]}"
        )
    raise MalformedGGUF(f"{label} says it is GGUF version {version}: download it again")


def _read_count(cursor: Cursor, label: str, what: str, most: int, least_bytes: int) -> int:
    count = cursor.u64(f"the number of {what}")
    if count > most or count * least_bytes > cursor.remaining:
        raise MalformedGGUF(
            f"{label} says it has {count} {what}, more than its {cursor.remaining} remaining "
            f"bytes or the limit of {most} allow: the file is damaged, download it again"
        )
    return count


def _read_metadata(cursor: Cursor, label: str, num_pairs: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for number in range(num_pairs):
        key = _read_name(cursor, label, f"metadata key {number}", MAX_KEY_BYTES)
        if not key:
            raise MalformedGGUF(f"{label} has an empty metadata key: download it again")
        if key in metadata:
            raise MalformedGGUF(f"{label} has the metadata key {key} twice: download it again")
        metadata[key] = _read_value(cursor, label, key)
    return metadata


def _read_name(cursor: Cursor, label: str, what: str, most: int) -> str:
    """A key or a tensor name: printable text, because C would cut it at a zero byte."""
    length = cursor.u64(what)
    if length > most:
        raise MalformedGGUF(
            f"{label} has {what} of {length} bytes, where at most {most} fit: "
            "the file is damaged, download it again"
        )
    raw = cursor.take(length, what)
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedGGUF(f"{label} has {what} that is not text: download it again") from error
    if not name.isprintable():
        raise MalformedGGUF(f"{label} has {what} with unprintable characters: download it again")
    return name


def _read_value(cursor: Cursor, label: str, key: str) -> Value:
    kind = _read_type(cursor, label, key)
    if kind is ValueType.ARRAY:
        return Value(kind, _read_array(cursor, label, key))
    if kind is ValueType.STRING:
        return Value(kind, cursor.string(key).decode("utf-8", "replace"))
    if kind is ValueType.BOOL:
        return Value(kind, _read_bool(cursor, label, key))
    layout = STRUCTS[kind]
    (number,) = layout.unpack(cursor.take(layout.size, key))
    return Value(kind, number)


def _read_bool(cursor: Cursor, label: str, key: str) -> bool:
    byte = cursor.take(1, key)[0]
    if byte > 1:
        raise MalformedGGUF(
            f"{label}: {key} should be true or false, and is {byte}: download the file again"
        )
    return byte == 1


def _read_type(cursor: Cursor, label: str, key: str) -> ValueType:
    number = cursor.u32(key)
    if number > ValueType.FLOAT64:
        raise MalformedGGUF(
            f"{label}: {key} has the unknown value type {number}: the file is damaged, "
            "download it again"
        )
    return ValueType(number)


def _read_array(cursor: Cursor, label: str, key: str) -> ArrayRef:
    kind = _read_type(cursor, label, key)
    count = cursor.u64(key)
    if kind is ValueType.ARRAY:
        raise UnsupportedModel(f"{label}: {key} is an array of arrays, which llama.cpp cannot read")
    start = cursor.position
    if kind is ValueType.STRING:
        cursor.skip_strings(count, key)
        return ArrayRef(kind, count, start, cursor.position - start)
    num_bytes = count * NUMPY_TYPES[kind].itemsize
    if num_bytes > SMALL_ARRAY_BYTES:
        cursor.skip(num_bytes, key)
        return ArrayRef(kind, count, start, num_bytes)
    return ArrayRef(kind, count, start, num_bytes, cursor.take(num_bytes, key))


def _alignment(metadata: dict[str, Value], label: str) -> int:
    found = metadata.get("general.alignment")
    if found is None:
        return DEFAULT_ALIGNMENT
    if found.type is not ValueType.UINT32 or not isinstance(found.value, int):
        raise MalformedGGUF(
            f"{label}: general.alignment is of type {found.label}, not uint32: convert it again"
        )
    if found.value < 1 or found.value & (found.value - 1):
        raise MalformedGGUF(
            f"{label}: general.alignment is {found.value}, not a power of two: convert it again"
        )
    return found.value


def _read_tensor(cursor: Cursor, label: str, number: int, part: int) -> TensorInfo:
    name = _read_name(cursor, label, f"tensor name {number}", MAX_TENSOR_NAME_BYTES)
    rank = cursor.u32(name)
    if rank > MAX_RANK:
        raise MalformedGGUF(
            f"{label}: tensor {name} has {rank} dimensions, where at most {MAX_RANK} are "
            "possible: the file is damaged, download it again"
        )
    layout = TENSOR_ROWS[rank]
    *shape, type_id, offset = layout.unpack(cursor.take(layout.size, name))
    return TensorInfo(name, tuple(shape), type_id, offset, part)


TENSOR_ROWS = tuple(Struct(f"<{rank}QIQ") for rank in range(MAX_RANK + 1))
