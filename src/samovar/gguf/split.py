"""Models split over several files: `name-00001-of-00003.gguf` and its siblings.

The first part carries the metadata; every part carries `split.no` (its number, from 0),
`split.count` and `split.tensors.count` (of all parts), and a tensor table of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from samovar.errors import MalformedGGUF, ModelNotFound, UnsupportedModel
from samovar.gguf.header import Header, Part
from samovar.gguf.reader import read_part, read_single
from samovar.gguf.show import shown
from samovar.gguf.tensor import TensorInfo
from samovar.gguf.values import Value, ValueType

# llama.cpp holds the count in 16 bits; nobody splits a model into so many files.
MAX_PARTS = 1000
PART_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Reads the header of a model, with those of its other parts if it is split.

    Never reads tensor data; takes time in proportion to the vocabulary (about 30 ms for 128,000
    tokens with merges). Raises ModelNotFound (no such file, or not one that can be opened),
    MalformedGGUF (not GGUF, or damaged), UnsupportedModel (a version or byte order that llama.cpp
    does not read, or a later part of a split model).
    """
    first = read_single(Path(path))
    label = shown(first.path)
    number, count = (_u16(label, first.metadata, f"split.{what}") for what in ("no", "count"))
    if count <= 1:
        return first
    if count > MAX_PARTS:
        raise MalformedGGUF(f"{label} says it is split into {count} parts: download it again")
    if number != 0:
        raise UnsupportedModel(
            f"{label} is part {number + 1} of {count} of a split model: give the first part"
            f"{_first_name(first.path)}"
        )
    paths = part_paths(first.path, count)
    missing = [other for other in paths if not other.is_file()]
    if missing:
        names = ", ".join(shown(other.name) for other in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ModelNotFound(
            f"{label} is the first of {count} parts, and {names}{more} "
            f"{'is' if len(missing) == 1 else 'are'} missing: download all parts into one directory"
        )
    return _join(first, paths)


def _first_name(path: Path) -> str:
    match = PART_NAME.fullmatch(path.name)
    return f", {shown(match['stem'])}-00001-of-{match['count']}.gguf" if match else ""


def part_paths(path: Path, count: int) -> list[Path]:
    """The files of a split model, from the name of its first. Raises MalformedGGUF."""
    match = PART_NAME.fullmatch(path.name)
    if match is None or int(match["number"]) != 1 or int(match["count"]) != count:
        raise MalformedGGUF(
            f"{shown(path)} is the first of {count} parts, so its name must end in "
            f"-00001-of-{count:05}.gguf: rename it as it was"
        )
    names = [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    return [path.with_name(name) for name in names]


def _join(first: Header, paths: list[Path]) -> Header:
    parts: list[Part] = list(first.parts)
    tensors: list[TensorInfo] = list(first.tensors)
    for number, path in enumerate(paths[1:], start=1):
        part, metadata, table = read_part(path, number)
        _check_part(path, metadata, number, len(paths))
        parts.append(part)
        tensors.extend(table)
    stated = first.integer("split.tensors.count")
    if stated is not None and stated != len(tensors):
        raise MalformedGGUF(
            f"{shown(first.path)} and its parts have {len(tensors)} tensors, and should have "
            f"{stated}: the parts do not belong together, download them again"
        )
    return Header(first.path, tuple(parts), first.metadata, tuple(tensors))


def _check_part(path: Path, metadata: dict[str, Value], number: int, count: int) -> None:
    # llama.cpp asserts the type of `split.no` in the later parts: a wrong one ends the process.
    if "split.no" not in metadata:
        raise MalformedGGUF(f"{shown(path)} does not say which part it is: download it again")
    label = shown(path)
    said = _u16(label, metadata, "split.no"), _u16(label, metadata, "split.count")
    if said[0] != number or said[1] not in (0, count):
        raise MalformedGGUF(
            f"{shown(path)} says it is part {said[0] + 1} of {said[1]}, and its name says "
            f"{number + 1} of {count}: download it again"
        )


def _u16(label: str, metadata: Mapping[str, Value], key: str) -> int:
    found = metadata.get(key)
    if found is None:
        return 0
    if found.type is not ValueType.UINT16 or not isinstance(found.value, int):
        raise MalformedGGUF(
            f"{label}: {key} is of type {found.label}, not uint16: split the model again"
        )
    return found.value
