"""llama.cpp's state blob of a sequence: how its bytes are laid out, read and written.

The blob is llama.cpp's own (`llama_state_seq_get_data`, build 0.3.36; see `llama-kv-cache.cpp`,
`state_write`, and `llama-memory-recurrent.cpp`). All integers are little-endian:

    u32 magic, i32 sequence id                        the id is not looked at on the way in
    attention section (absent in purely recurrent models)
      u32 streams                                     1 in the pool, the number of lanes otherwise
      per stream: u32 cells, and where there are any:
        per cell: i32 position, u32 1, ext, i32 sequence id
          ext: with M-RoPE i32 x, i32 y, i32 token id; else nothing
        u32 V is transposed, u32 layers
        per layer: i32 type, u64 bytes per row, K rows
        per layer with V: i32 type, u64 bytes per row, V rows
          or, transposed: i32 type, u32 bytes per element, u32 width, then width x cells elements
    tail: a second attention section (the sliding window), or the recurrent state

What a model's blob looks like is found out by taking one apart, never by the model's name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from samovar.errors import NativeError
from samovar.native.interface import Range

HEADER = 8  # magic and sequence id
MAGIC = 0xAF143CD8  # llama-context.cpp, io_magic
PARTIAL = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
_EXT_SIZES = (0, 12)


class Unparsable(Exception):
    """The blob does not look as expected."""


@dataclass(frozen=True, slots=True)
class Part:
    """The K or V rows of one layer."""

    type: int
    row_bytes: int
    """Bytes per cell."""
    width: int = 0
    """Transposed V only: elements per cell; `row_bytes` is width x element size."""

    def header(self) -> bytes:
        """What precedes the rows in the blob."""
        if self.width:
            return struct.pack("<iII", self.type, self.row_bytes // self.width, self.width)
        return struct.pack("<iQ", self.type, self.row_bytes)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the attention section of one model looks like, apart from its cells."""

    ext_bytes: int
    is_transposed: bool
    num_layers: int
    parts: tuple[Part, ...]
    """K of each layer, then V of each layer that has it."""
    row_bytes: int = field(init=False)
    """Bytes of all parts per cell: the KV bytes of one token."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "row_bytes", sum(part.row_bytes for part in self.parts))

    @property
    def has_v(self) -> bool:
        """Whether the layers have V rows beside those of K."""
        return len(self.parts) > self.num_layers

    @property
    def meta(self) -> np.dtype:
        """One cell's metadata."""
        ext = ("x", "y", "token") if self.ext_bytes else ()
        kinds = {"count": "<u4"}
        fields = ("position", "count", *ext, "seq_id")
        return np.dtype([(name, kinds.get(name, "<i4")) for name in fields])

    def section_bytes(self, cells: int, streams: int) -> int:
        """Length of the section with `cells` in one of its streams."""
        if not cells:
            return 4 + 4 * streams
        headers = sum(len(part.header()) for part in self.parts)
        return 4 + 4 * streams + cells * (self.meta.itemsize + self.row_bytes) + 8 + headers


# ---- taking apart -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Section:
    """An attention section that was found in a blob."""

    layout: Layout
    cells: np.ndarray
    """Their metadata: of dtype `layout.meta`."""
    rows: tuple[np.ndarray, ...]
    """Per part: uint8 of shape (cells, row bytes), or (width, cells, element) when transposed."""
    end: int

    @property
    def positions(self) -> np.ndarray:
        """Of each cell, in the order in which they lie."""
        positions: np.ndarray = self.cells["position"]
        return positions

    def is_text(self, tokens: Sequence[int]) -> bool:
        """Whether the cells hold what those of this text do, and so can be told from it."""
        expected = np.empty(len(tokens), self.layout.meta)
        _describe(expected, tokens, 0)
        names = [name for name in self.layout.meta.names or () if name != "seq_id"]
        return all(np.array_equal(self.cells[name], expected[name]) for name in names)


def parse(blob: np.ndarray, start: int, ext_bytes: int, *, has_v: bool) -> Section:
    """Read one attention section; raises Unparsable when it is not one of this shape."""
    cursor = _Cursor(blob, start)
    (streams,) = cursor.take("<I")
    if not 1 <= streams <= 256:
        raise Unparsable
    found: Section | None = None
    for _ in range(streams):
        (cells,) = cursor.take("<I")
        if cells:
            if found is not None:
                raise Unparsable
            found = _parse_stream(cursor, cells, ext_bytes, has_v=has_v)
    if found is None:
        raise Unparsable
    return Section(found.layout, found.cells, found.rows, cursor.offset)


def _parse_stream(cursor: _Cursor, cells: int, ext_bytes: int, *, has_v: bool) -> Section:
    meta = Layout(ext_bytes, is_transposed=False, num_layers=0, parts=()).meta
    cell_meta = cursor.view(cells * meta.itemsize).view(meta)
    if not (cell_meta["count"] == 1).all():
        raise Unparsable
    transposed, num_layers = cursor.take("<II")
    if transposed > 1 or num_layers > 4096:
        raise Unparsable
    parts: list[Part] = []
    rows: list[np.ndarray] = []
    for _ in range(num_layers):
        _parse_rows(cursor, cells, parts, rows)
    for _ in range(num_layers if has_v else 0):
        (_parse_columns if transposed else _parse_rows)(cursor, cells, parts, rows)
    layout = Layout(ext_bytes, bool(transposed), num_layers, tuple(parts))
    return Section(layout, cell_meta, tuple(rows), cursor.offset)


def _parse_rows(cursor: _Cursor, cells: int, parts: list[Part], rows: list[np.ndarray]) -> None:
    kind, row_bytes = cursor.take("<iQ")
    rows.append(cursor.view(cells * row_bytes).reshape(cells, row_bytes))
    parts.append(Part(kind, row_bytes))


def _parse_columns(cursor: _Cursor, cells: int, parts: list[Part], rows: list[np.ndarray]) -> None:
    kind, element, width = cursor.take("<iII")
    rows.append(cursor.view(cells * width * element).reshape(width, cells, element))
    parts.append(Part(kind, width * element, width))


class _Cursor:
    """A position in a blob that refuses to leave it."""

    def __init__(self, blob: np.ndarray, offset: int) -> None:
        self.blob = blob
        self.offset = offset

    def take(self, form: str) -> tuple[int, ...]:
        """Read integers."""
        return struct.unpack(form, self.view(struct.calcsize(form)).tobytes())

    def view(self, size: int) -> np.ndarray:
        """The next `size` bytes, not copied."""
        if size < 0 or self.offset + size > len(self.blob):
            raise Unparsable
        start, self.offset = self.offset, self.offset + size
        return self.blob[start : self.offset]


def readings(blob: np.ndarray, start: int) -> Iterator[Section]:
    """Every way in which what begins at `start` can be read as an attention section."""
    for has_v in (True, False):
        for ext_bytes in _EXT_SIZES:
            with suppress(Unparsable):
                yield parse(blob, start, ext_bytes, has_v=has_v)


# ---- putting together ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """Where the rows of neighbouring parts of one shape belong."""

    part: Part
    rows: np.ndarray
    """One row each: all of its cells. They lie at equal distances."""
    before: int
    """Bytes of one cell in the parts before them."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a blob has room for once everything but the rows is written."""

    groups: tuple[Group, ...]
    end: int
    """Where the tail begins."""


def write_attention(
    blob: np.ndarray,
    seq_id: int,
    streams: int,
    layout: Layout,
    tokens: Sequence[int],
    ranges: Sequence[Range],
) -> int:
    """Write header and attention section into a buffer; returns where the tail begins."""
    frame = write_frame(blob, seq_id, streams, layout, tokens)
    payloads = [np.frombuffer(piece.payload, np.uint8) for piece in ranges]
    for group in frame.groups:  # of one shape, mostly: each block is read once, front to back
        for piece, payload in zip(ranges, payloads, strict=True):
            length = piece.end - piece.start
            first, size = group.before * length, len(group.rows) * group.part.row_bytes * length
            _put(group, piece, payload[first : first + size])
    return frame.end


def write_frame(
    blob: np.ndarray, seq_id: int, streams: int, layout: Layout, tokens: Sequence[int]
) -> Frame:
    """Write everything but the rows."""
    writer, cells = _Writer(blob), len(tokens)
    groups: list[Group] = []
    writer.pack("<IiI", MAGIC, seq_id, streams)
    stream = seq_id if streams > 1 else 0
    for _ in range(stream):
        writer.pack("<I", 0)
    writer.pack("<I", cells)
    if cells:
        _describe(writer.view(cells * layout.meta.itemsize).view(layout.meta), tokens, seq_id)
        writer.pack("<II", layout.is_transposed, layout.num_layers)
        groups += _write_headers(writer, cells, layout)
    for _ in range(streams - 1 - stream):
        writer.pack("<I", 0)
    return Frame(tuple(groups), writer.offset)


def _describe(cells: np.ndarray, tokens: Sequence[int], seq_id: int) -> None:
    """Fill in the metadata of the cells of a text."""
    cells["position"] = np.arange(len(tokens))
    cells["count"] = 1
    cells["seq_id"] = seq_id
    if "token" in (cells.dtype.names or ()):
        cells["token"] = tokens
        cells["x"] = cells["y"] = cells["position"]


def _write_headers(writer: _Writer, cells: int, layout: Layout) -> Iterator[Group]:
    """Those of the parts, and room for their rows."""
    before = 0
    for part, alike in groupby(layout.parts):
        header = np.frombuffer(part.header(), np.uint8)
        count = len(list(alike))
        # Neighbours of one shape lie at equal distances: one row each, header and cells.
        target = writer.view(count * (len(header) + cells * part.row_bytes)).reshape(count, -1)
        target[:, : len(header)] = header
        yield Group(part, target[:, len(header) :], before)
        before += count * part.row_bytes


def _put(group: Group, piece: Range, rows: np.ndarray) -> None:
    """Write the rows of a range into neighbouring parts of one shape."""
    part, target = group.part, group.rows
    count, length = len(target), piece.end - piece.start
    if part.width:
        columns = target.reshape(count, part.width, -1, part.row_bytes // part.width)
        columns[:, :, piece.start : piece.end] = rows.reshape(count, part.width, length, -1)
    else:
        cells = slice(piece.start * part.row_bytes, piece.end * part.row_bytes)
        target[:, cells] = rows.reshape(count, -1)


class _Writer:
    """Fills a buffer from front to back."""

    def __init__(self, buffer: np.ndarray) -> None:
        self.buffer = buffer
        self.offset = 0

    def pack(self, form: str, *values: int) -> None:
        """Write integers."""
        self.raw(struct.pack(form, *values))

    def raw(self, data: bytes) -> None:
        """Write bytes."""
        self.view(len(data))[:] = np.frombuffer(data, np.uint8)

    def view(self, size: int) -> np.ndarray:
        """The next `size` bytes, to be filled by the caller."""
        start, self.offset = self.offset, self.offset + size
        return self.buffer[start : self.offset]


def strip_streams(tail: bytes, streams: int) -> bytes:
    """A sliding-window section without the number of streams and the counts of the empty ones."""
    (found,) = struct.unpack_from("<I", tail, 0)
    if found != streams:
        raise NativeError("the tail of a state names another number of streams")
    used = 0
    while used < streams - 1 and struct.unpack_from("<I", tail, 4 + 4 * used) == (0,):
        used += 1
    return tail[4 + 4 * used : len(tail) - 4 * (streams - 1 - used)]


def add_streams(section: bytes, streams: int, seq_id: int) -> bytes:
    """The reverse, for the stream of `seq_id`."""
    used = seq_id if streams > 1 else 0
    return b"".join(
        (struct.pack("<I", streams), bytes(4 * used), section, bytes(4 * (streams - 1 - used)))
    )
