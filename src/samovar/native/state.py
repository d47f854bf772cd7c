"""The state blob of a sequence, taken apart into ranges of KV rows and put together again.

The blob is llama.cpp's own (`llama_state_seq_get_data`, build 0.3.36; see `llama-kv-cache.cpp`,
`state_write`, and `llama-memory-recurrent.cpp`). All integers are little-endian:

    u32 magic, i32 sequence id                        the id is not looked at on the way in
    attention section (absent in purely recurrent models)
      u32 streams                                     1 in the pool, the number of lanes otherwise
      per stream: u32 cells, and where there are any:
        per cell: i32 position, u32 1, ext, i32 sequence id     ext: 0 bytes, or 8 or 12 with M-RoPE
        u32 V is transposed, u32 layers
        per layer: i32 type, u64 bytes per row, K rows
        per layer with V: i32 type, u64 bytes per row, V rows
          or, transposed: i32 type, u32 bytes per element, u32 width, then width x cells elements
    tail: a second attention section (the sliding window), or the recurrent state

A *payload* is the rows of some cells, K of each layer and then V of each layer, and nothing else:
no position, sequence id, stream or count, so it fits any sequence of any context of the same
model. A *tail* is kept without the number of streams for the same reason.

What a model's blob looks like is found out by taking one apart, never by its name; `probe` then
proves the finding: it exports a few tokens, puts them together, imports them, and compares the
next logits. What fails the proof is treated as indivisible.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from samovar.errors import NativeError, StateRejected
from samovar.native.context import Context
from samovar.native.interface import Decoded, Range, StateKind

logger = logging.getLogger(__name__)

_HEADER = 8  # magic and sequence id
_MAGIC = 0xAF143CD8  # llama-context.cpp, io_magic
_PARTIAL = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
_EXT_SIZES = (0, 8, 12)  # none; M-RoPE's x and y; those and a token id


class _UnparsableError(Exception):
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
    def meta(self) -> np.dtype:
        """One cell's metadata."""
        fields: list[tuple[str, str]] = [("position", "<i4"), ("count", "<u4")]
        if self.ext_bytes:
            fields.append(("ext", f"V{self.ext_bytes}"))
        return np.dtype([*fields, ("seq_id", "<i4")])

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
    positions: np.ndarray
    rows: tuple[np.ndarray, ...]
    """Per part: uint8 of shape (cells, row bytes), or (width, cells, element) when transposed."""
    end: int


def _parse(blob: np.ndarray, start: int, ext_bytes: int, *, has_v: bool) -> Section:
    """Read one attention section; raises _UnparsableError when it is not one of this shape."""
    cursor = _Cursor(blob, start)
    (streams,) = cursor.take("<I")
    if not 1 <= streams <= 256:
        raise _UnparsableError
    found: Section | None = None
    for _ in range(streams):
        (cells,) = cursor.take("<I")
        if cells:
            if found is not None:
                raise _UnparsableError
            found = _parse_stream(cursor, cells, ext_bytes, has_v=has_v)
    if found is None:
        raise _UnparsableError
    return Section(found.layout, found.positions, found.rows, cursor.offset)


def _parse_stream(cursor: _Cursor, cells: int, ext_bytes: int, *, has_v: bool) -> Section:
    meta = Layout(ext_bytes, is_transposed=False, num_layers=0, parts=()).meta
    cell_meta = cursor.view(cells * meta.itemsize).view(meta)
    if not (cell_meta["count"] == 1).all():
        raise _UnparsableError
    transposed, num_layers = cursor.take("<II")
    if transposed > 1 or not 1 <= num_layers <= 4096:
        raise _UnparsableError
    parts: list[Part] = []
    rows: list[np.ndarray] = []
    for _ in range(num_layers):
        _parse_rows(cursor, cells, parts, rows)
    for _ in range(num_layers if has_v else 0):
        (_parse_columns if transposed else _parse_rows)(cursor, cells, parts, rows)
    layout = Layout(ext_bytes, bool(transposed), num_layers, tuple(parts))
    return Section(layout, cell_meta["position"].copy(), tuple(rows), cursor.offset)


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
            raise _UnparsableError
        start, self.offset = self.offset, self.offset + size
        return self.blob[start : self.offset]


# ---- the codec ----------------------------------------------------------------------------------


class Codec:
    """Exports and imports the state of sequences of one context."""

    def __init__(self, context: Context, kind: StateKind, layout: Layout | None = None) -> None:
        self.kind = kind
        self.layout = layout
        self._context = context
        self._streams = context.num_streams
        self._tail_has_streams = not (context.model.is_recurrent or context.model.is_hybrid)
        self._out = np.empty(
            0, np.uint8
        )  # reused: a fresh 50 MB costs more to fault in than to fill
        self._in = np.empty(0, np.uint8)

    # -- whole states

    def export_whole(self, seq_id: int) -> bytes:
        """The state as llama.cpp wrote it, without the header that names the sequence."""
        return self._read(seq_id)[_HEADER:].tobytes()

    def import_whole(self, seq_id: int, state: bytes, cells: int) -> None:
        """Replace the sequence by a state of `cells` positions.

        Raises StateRejected, and leaves it empty, when it is refused or ends elsewhere.
        """
        blob = self._reserve_in(_HEADER + len(state))
        blob[:_HEADER] = np.frombuffer(struct.pack("<Ii", _MAGIC, seq_id), np.uint8)
        blob[_HEADER:] = np.frombuffer(state, np.uint8)
        self._hand_over(seq_id, blob, cells)

    # -- ranges

    def export_ranges(self, seq_id: int, bounds: Sequence[tuple[int, int]]) -> list[Range]:
        """The rows of each (start, end) of positions, from one pass over the sequence."""
        layout = self._divisible()
        if not bounds:
            return []
        blob = self._read(seq_id)
        section = self._section(blob)
        order = _order(section.positions)
        return [_cut(section, layout, order, start, end) for start, end in bounds]

    def export_tail(self, seq_id: int) -> bytes:
        """The tail at the sequence's end; empty when the model has none."""
        if self.kind is not StateKind.DIVISIBLE_WITH_TAIL:
            return b""
        tail = self._read(seq_id, _PARTIAL)[_HEADER:].tobytes()
        return _strip_streams(tail, self._streams) if self._tail_has_streams else tail

    def import_ranges(self, seq_id: int, ranges: Sequence[Range], tail: bytes = b"") -> None:
        """Replace the sequence by the rows of `ranges`, which follow each other from position 0.

        One blob is built and handed over in one call. Raises StateRejected for gaps, payloads of
        another size and a tail of another position, and when llama.cpp refuses; the sequence is
        then empty.
        """
        layout = self._divisible()
        cells = _check_ranges(ranges, layout)
        if bool(tail) != (self.kind is StateKind.DIVISIBLE_WITH_TAIL):
            raise StateRejected("this model's state needs its tail, and only its own")
        if tail and self._tail_has_streams:
            tail = _add_streams(tail, self._streams, seq_id)
        size = layout.section_bytes(cells, self._streams) + len(tail)
        blob = self._reserve_in(_HEADER + size)
        end = self._build(blob, seq_id, cells, ranges, layout)
        blob[end:] = np.frombuffer(tail, np.uint8)
        self._hand_over(seq_id, blob, cells)

    # -- helpers

    def _divisible(self) -> Layout:
        if self.layout is None:
            raise StateRejected(f"the state of this model is {self.kind.value}: it has no ranges")
        return self.layout

    def _section(self, blob: np.ndarray) -> Section:
        layout = self._divisible()
        has_v = len(layout.parts) > layout.num_layers
        try:
            section = _parse(blob, _HEADER, layout.ext_bytes, has_v=has_v)
        except _UnparsableError:
            raise NativeError("llama.cpp's state blob changed its shape") from None
        if section.layout != layout:
            raise NativeError("llama.cpp's state blob changed its shape")
        return section

    def _build(
        self,
        blob: np.ndarray,
        seq_id: int,
        cells: int,
        ranges: Sequence[Range],
        layout: Layout,
    ) -> int:
        """Write header and attention section; returns where the tail begins."""
        writer = _Writer(blob)
        writer.pack("<IiI", _MAGIC, seq_id, self._streams)
        stream = seq_id if self._streams > 1 else 0
        for _ in range(stream):
            writer.pack("<I", 0)
        writer.pack("<I", cells)
        if cells:
            _write_meta(writer, cells, seq_id, layout)
            writer.pack("<II", layout.is_transposed, layout.num_layers)
            _write_rows(writer, cells, ranges, layout)
        for _ in range(self._streams - 1 - stream):
            writer.pack("<I", 0)
        return writer.offset

    def _read(self, seq_id: int, flags: int = 0) -> np.ndarray:
        size = self._context.state_size(seq_id, flags)
        if len(self._out) < size:
            self._out = np.empty(size, np.uint8)
        written = self._context.read_state(seq_id, self._out[:size], flags)
        if not size or written != size:
            raise NativeError(f"llama.cpp wrote {written} of {size} bytes of a sequence's state")
        return self._out[:size]

    def _reserve_in(self, size: int) -> np.ndarray:
        if len(self._in) < size:
            self._in = np.empty(size, np.uint8)
        return self._in[:size]

    def _hand_over(self, seq_id: int, blob: np.ndarray, cells: int) -> None:
        context = self._context
        consumed = context.write_state(seq_id, blob)
        if consumed != len(blob):
            context.remove(seq_id, -1)
            raise StateRejected(
                "llama.cpp refused a saved state; it was dropped and will be computed again"
            )
        # Of two parts that end apart, one shows here: the last position is that of the part that
        # ends first, and the first position of a recurrent part is its last.
        if not context.first_position(seq_id) < cells == context.last_position(seq_id) + 1:
            context.remove(seq_id, -1)
            raise StateRejected(
                f"a saved state of {cells} tokens has parts that end elsewhere; it was dropped"
            )


def _order(positions: np.ndarray) -> np.ndarray | None:
    """The cells in order of position; None when they lie in that order already."""
    expected = np.arange(len(positions))
    if np.array_equal(positions, expected):
        return None
    order = np.argsort(positions, kind="stable")
    if not np.array_equal(positions[order], expected):
        raise NativeError("the cells of a sequence are not positions 0 to n - 1")
    return order


def _cut(section: Section, layout: Layout, order: np.ndarray | None, start: int, end: int) -> Range:
    """Copy the rows of positions start to end into one payload."""
    count = end - start
    payload = np.empty(count * layout.row_bytes, np.uint8)
    offset = 0
    picked = slice(start, end) if order is None else order[start:end]
    for part, rows in zip(layout.parts, section.rows, strict=True):
        size = count * part.row_bytes
        target = payload[offset : offset + size]
        if part.width:
            target.reshape(part.width, count, -1)[:] = rows[:, picked]
        else:
            target.reshape(count, part.row_bytes)[:] = rows[picked]
        offset += size
    return Range(start, end, payload.data)


def _check_ranges(ranges: Sequence[Range], layout: Layout) -> int:
    """The number of cells; raises StateRejected unless the ranges follow each other from 0."""
    cells = 0
    for piece in ranges:
        if piece.start != cells or piece.end <= piece.start:
            raise StateRejected(f"ranges must follow each other: {piece.start} is not {cells}")
        if piece.payload.nbytes != (piece.end - piece.start) * layout.row_bytes:
            raise StateRejected("a range of KV rows has another size than this model's rows")
        cells = piece.end
    return cells


def _write_meta(writer: _Writer, cells: int, seq_id: int, layout: Layout) -> None:
    meta = writer.view(cells * layout.meta.itemsize).view(layout.meta)
    if layout.ext_bytes:
        meta.view(np.uint8)[:] = 0
    meta["position"] = np.arange(cells)
    meta["count"] = 1
    meta["seq_id"] = seq_id


def _write_rows(writer: _Writer, cells: int, ranges: Sequence[Range], layout: Layout) -> None:
    payloads = [np.frombuffer(piece.payload, np.uint8) for piece in ranges]
    before = 0  # bytes of one cell in the parts that are done
    for part in layout.parts:
        writer.raw(part.header())
        target = writer.view(cells * part.row_bytes)
        for piece, payload in zip(ranges, payloads, strict=True):
            count = piece.end - piece.start
            first = before * count
            rows = payload[first : first + count * part.row_bytes]
            if part.width:
                columns = target.reshape(part.width, cells, -1)
                columns[:, piece.start : piece.end] = rows.reshape(part.width, count, -1)
            else:
                target[piece.start * part.row_bytes : piece.end * part.row_bytes] = rows
        before += part.row_bytes


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


def _strip_streams(tail: bytes, streams: int) -> bytes:
    """A sliding-window section without the number of streams and the counts of the empty ones."""
    (found,) = struct.unpack_from("<I", tail, 0)
    if found != streams:
        raise NativeError("the tail of a state names another number of streams")
    used = 0
    while used < streams - 1 and struct.unpack_from("<I", tail, 4 + 4 * used) == (0,):
        used += 1
    return tail[4 + 4 * used : len(tail) - 4 * (streams - 1 - used)]


def _add_streams(section: bytes, streams: int, seq_id: int) -> bytes:
    """The reverse, for the stream of `seq_id`."""
    used = seq_id if streams > 1 else 0
    return b"".join(
        (struct.pack("<I", streams), bytes(4 * used), section, bytes(4 * (streams - 1 - used)))
    )


# ---- finding out --------------------------------------------------------------------------------


def inspect(context: Context, seq_id: int) -> tuple[StateKind, Layout | None]:
    """What kind of state a sequence with a few cells has, from its blobs alone."""
    if not context.has_memory:
        return StateKind.NONE, None
    if context.model.is_recurrent:
        return StateKind.INDIVISIBLE, None
    whole = _blob(context, seq_id, 0)
    partial = _blob(context, seq_id, _PARTIAL)
    tail = partial[_HEADER:] if len(partial) < len(whole) else partial[:0]
    if len(tail) and not np.array_equal(whole[len(whole) - len(tail) :], tail):
        return StateKind.INDIVISIBLE, None
    layout = _find_layout(whole[: len(whole) - len(tail)])
    if layout is None:
        return StateKind.INDIVISIBLE, None
    return (StateKind.DIVISIBLE_WITH_TAIL if len(tail) else StateKind.DIVISIBLE), layout


def _find_layout(blob: np.ndarray) -> Layout | None:
    """The one reading of the attention section that uses every byte."""
    for has_v in (True, False):
        for ext_bytes in _EXT_SIZES:
            try:
                section = _parse(blob, _HEADER, ext_bytes, has_v=has_v)
            except _UnparsableError:
                continue
            # M-RoPE cells carry positions that a payload does not keep: never divided.
            if section.end == len(blob):
                return section.layout if not ext_bytes else None
    return None


def _blob(context: Context, seq_id: int, flags: int) -> np.ndarray:
    buffer = np.empty(context.state_size(seq_id, flags), np.uint8)
    written = context.read_state(seq_id, buffer, flags)
    return buffer[:written]


def probe(context: Context) -> Codec:
    """Find out the kind of state, and prove it, on an empty context that is left empty.

    The proof costs two small decode calls: four tokens are computed, exported in two ranges,
    imported as one, and the next token's logits must come out as before. If they do not, the
    model's state is treated as indivisible; if whole states fail too, as none.
    """
    if not context.has_memory:
        return Codec(context, StateKind.NONE)
    tokens = [token % context.model.vocabulary.size for token in (1, 2, 3, 4, 5)]
    if min(context.context_length, context.batch_size) <= len(tokens):
        return Codec(context, StateKind.INDIVISIBLE)
    _decode(context, tokens[:-1], 0)
    kind, layout = inspect(context, 0)
    try:
        return _first_proven(context, kind, layout, tokens)
    finally:
        context.clear()


def _first_proven(
    context: Context, kind: StateKind, layout: Layout | None, tokens: list[int]
) -> Codec:
    codecs = [Codec(context, StateKind.INDIVISIBLE), Codec(context, StateKind.NONE)]
    if layout is not None:
        codecs.insert(0, Codec(context, kind, layout))
    saved = [_export_all(codec, len(tokens) - 1) for codec in codecs[:-1]]
    expected = _decode(context, tokens[-1:], len(tokens) - 1)
    for codec, state in zip(codecs, saved, strict=False):
        if _round_trips(context, codec, state, tokens, expected):
            return codec
        logger.warning("saved state of kind %s does not restore with this model", codec.kind.value)
    return codecs[-1]


def _export_all(codec: Codec, count: int) -> tuple[list[Range], bytes]:
    if codec.layout is None:
        return [], codec.export_whole(0)
    return codec.export_ranges(0, [(0, 1), (1, count)]), codec.export_tail(0)


def _round_trips(
    context: Context,
    codec: Codec,
    state: tuple[list[Range], bytes],
    tokens: list[int],
    expected: np.ndarray,
) -> bool:
    context.clear()
    ranges, rest = state
    try:
        if codec.layout is None:
            codec.import_whole(0, rest, len(tokens) - 1)
        else:
            codec.import_ranges(0, ranges, rest)
            again = _export_all(codec, len(tokens) - 1)
            if again != state:
                return False
        found = _decode(context, tokens[-1:], len(tokens) - 1)
    except (StateRejected, NativeError):
        return False
    return bool(np.array_equal(found, expected))


def _decode(context: Context, tokens: list[int], position: int) -> np.ndarray:
    batch = context.batch
    batch.clear()
    row = batch.add(0, tokens, position, wants_logits=True)
    if not isinstance(context.decode(batch), Decoded):
        raise NativeError("a decode call of a few tokens did not succeed")
    return context.logits(row).copy()
