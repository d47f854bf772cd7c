"""Small GGUF files, and every way to spoil them.

`tiny_llama` writes a valid model with the reference writer. `RawFile` takes such a file apart into
pairs and tensors and puts it together again, so that a test can change one thing and keep the rest
consistent. It shares no code with the reader under test.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
# Tensor type -> elements and bytes of a block, for the types that tests use.
BLOCKS = {0: (1, 4), 1: (1, 2), 8: (32, 34), 9: (32, 36), 26: (1, 4), 28: (1, 8), 30: (1, 2)}

VOCAB = 320
WIDTH = 32
LAYERS = 2
HEADS = 4
PAIRS = 2
FEED_FORWARD = 64

Pair = tuple[int, bytes]


@dataclass
class RawTensor:
    name: str
    shape: tuple[int, ...]
    type_id: int
    data: bytes
    offset: int | None = None


@dataclass
class RawFile:
    pairs: dict[str, Pair] = field(default_factory=dict)
    tensors: list[RawTensor] = field(default_factory=list)
    version: int = 3
    alignment: int = 32

    def set(self, key: str, kind: int, value: object) -> RawFile:
        """A copy with one more, or another, scalar."""
        return RawFile({**self.pairs, key: scalar(kind, value)}, self.tensors, self.version)

    def set_array(self, key: str, kind: int, values: Iterable[object]) -> RawFile:
        return RawFile({**self.pairs, key: array(kind, values)}, self.tensors, self.version)

    def without(self, key: str) -> RawFile:
        pairs = {name: pair for name, pair in self.pairs.items() if name != key}
        return RawFile(pairs, self.tensors, self.version)

    def with_tensors(self, tensors: list[RawTensor]) -> RawFile:
        return RawFile(self.pairs, tensors, self.version)

    def tensor(self, name: str) -> RawTensor:
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def replace(self, name: str, other: RawTensor) -> RawFile:
        return self.with_tensors([other if t.name == name else t for t in self.tensors])

    def dump(self) -> bytes:
        head = [b"GGUF", struct.pack("<IQQ", self.version, len(self.tensors), len(self.pairs))]
        head += [
            text(key) + struct.pack("<I", kind) + raw for key, (kind, raw) in self.pairs.items()
        ]
        offset, data = 0, []
        for tensor in self.tensors:
            head.append(self._row(tensor, offset))
            data.append(pad(tensor.data, self.alignment))
            offset += len(data[-1])
        return pad(b"".join(head), self.alignment) + b"".join(data)

    def _row(self, tensor: RawTensor, offset: int) -> bytes:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        at = offset if tensor.offset is None else tensor.offset
        return text(tensor.name) + shape + struct.pack("<IQ", tensor.type_id, at)

    @property
    def header_size(self) -> int:
        """Bytes before the tensor data."""
        return len(self.dump()) - sum(len(pad(t.data, self.alignment)) for t in self.tensors)


# The fixture `save`: writes a file and gives its path.
Save = Callable[["RawFile | bytes"], Path]


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pad(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)


def scalar(kind: int, value: object) -> Pair:
    if kind == STRING:
        assert isinstance(value, str | bytes)
        return kind, text(value)
    return kind, struct.pack("<" + SCALARS[kind], value)


def array(kind: int, values: Iterable[object]) -> Pair:
    items = list(values)
    body = b"".join(scalar(kind, value)[1] for value in items)
    return ARRAY, struct.pack("<IQ", kind, len(items)) + body


def parse(data: bytes) -> RawFile:
    """Takes a valid file apart."""
    version, num_tensors, num_pairs = struct.unpack_from("<IQQ", data, 4)
    at, pairs, rows = 24, {}, []
    for _ in range(num_pairs):
        key, at = _text_at(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        end = _value_end(data, at + 4, kind)
        pairs[key], at = (kind, data[at + 4 : end]), end
    for _ in range(num_tensors):
        name, at = _text_at(data, at)
        (rank,) = struct.unpack_from("<I", data, at)
        *shape, type_id, offset = struct.unpack_from(f"<{rank}QIQ", data, at + 4)
        rows.append((name, tuple(shape), type_id, offset))
        at += 16 + 8 * rank
    start = len(pad(data[:at], 32))
    return RawFile(pairs, [_tensor_at(data, start, row) for row in rows], version)


def _tensor_at(data: bytes, start: int, row: tuple[str, tuple[int, ...], int, int]) -> RawTensor:
    name, shape, type_id, offset = row
    elements, size = BLOCKS[type_id]
    num_bytes = int(np.prod(shape)) // elements * size
    return RawTensor(name, shape, type_id, data[start + offset : start + offset + num_bytes])


def _text_at(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + length].decode(), at + 8 + length


def _value_end(data: bytes, at: int, kind: int) -> int:
    if kind == STRING:
        return _text_at(data, at)[1]
    if kind != ARRAY:
        return at + struct.calcsize(SCALARS[kind])
    element, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if element != STRING:
        return at + count * struct.calcsize(SCALARS[element])
    for _ in range(count):
        at = _text_at(data, at)[1]
    return at


def retyped(tensor: RawTensor, type_id: int) -> RawTensor:
    """The same tensor, of zeros, in another type."""
    elements, size = BLOCKS[type_id]
    num_bytes = int(np.prod(tensor.shape)) // elements * size
    return RawTensor(tensor.name, tensor.shape, type_id, bytes(num_bytes))


def words(count: int = VOCAB) -> list[str]:
    """A SentencePiece vocabulary: three specials, the 256 bytes, words."""
    start = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return (start + [f"\u2581w{i}" for i in range(count)])[:count]


def word_types(count: int = VOCAB) -> list[int]:
    return ([2, 3, 3] + [6] * 256 + [1] * count)[:count]


def tiny_llama(path: Path) -> Path:
    """A valid llama of 2 layers and random weights, about 150 kB."""
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_size_label("70K")
    writer.add_file_type(0)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(PAIRS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words())
    writer.add_token_scores([-float(i) for i in range(VOCAB)])
    writer.add_token_types(word_types())
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}")
    _add_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_weights(writer: GGUFWriter) -> None:
    rng = np.random.default_rng(1)
    pairs_width = WIDTH // HEADS * PAIRS

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32) * 0.1)

    add("token_embd.weight", VOCAB, WIDTH)
    add("output_norm.weight", WIDTH)
    add("output.weight", VOCAB, WIDTH)
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        add(prefix + "attn_norm.weight", WIDTH)
        add(prefix + "attn_q.weight", WIDTH, WIDTH)
        add(prefix + "attn_k.weight", pairs_width, WIDTH)
        add(prefix + "attn_v.weight", pairs_width, WIDTH)
        add(prefix + "attn_output.weight", WIDTH, WIDTH)
        add(prefix + "ffn_norm.weight", WIDTH)
        add(prefix + "ffn_gate.weight", FEED_FORWARD, WIDTH)
        add(prefix + "ffn_up.weight", FEED_FORWARD, WIDTH)
        add(prefix + "ffn_down.weight", WIDTH, FEED_FORWARD)
