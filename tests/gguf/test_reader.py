from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf_files import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    VOCAB,
    RawFile,
    RawTensor,
    Save,
    array,
    scalar,
    text,
    words,
)

from samovar.errors import MalformedGGUF, ModelNotFound, UnsupportedModel
from samovar.gguf import StringArray, read_header


def test_the_header_says_what_the_reference_writer_wrote(llama_path: Path) -> None:
    header = read_header(llama_path)
    assert header.architecture == "llama"
    assert header.name == "tiny"
    assert header.size_label == "70K"
    assert (header.n_layer, header.n_embd, header.n_head, header.n_head_kv) == (2, 32, 4, 2)
    assert (header.n_ctx_train, header.n_ff) == (128, 64)
    assert (header.vocab_type, header.vocab_size) == ("spm", VOCAB)
    assert header.rope_freq_base == 10000.0
    assert header.rope_dimension == 8
    assert header.chat_template == "{{ messages[0].content }}"
    assert header.file_size == llama_path.stat().st_size
    assert not header.is_adapter
    assert not header.is_vocab_only


def test_tensors_keep_their_order_shape_and_place(llama: RawFile, llama_path: Path) -> None:
    header = read_header(llama_path)
    assert [t.name for t in header.tensors] == [t.name for t in llama.tensors]
    embedding = header.tensors[0]
    assert embedding.shape == (32, VOCAB)
    assert (embedding.type_name, embedding.num_elements) == ("F32", 32 * VOCAB)
    start = header.parts[0].data_offset + embedding.offset
    assert llama_path.read_bytes()[start : start + embedding.num_bytes] == llama.tensors[0].data


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (U8, 255),
        (I8, -128),
        (U16, 65535),
        (I16, -32768),
        (U32, 2**32 - 1),
        (I32, -(2**31)),
        (F32, 0.5),
        (BOOL, True),
        (STRING, "na\u00efve \U0001f600"),
        (U64, 2**64 - 1),
        (I64, -(2**63)),
        (F64, 1e-300),
    ],
)
def test_scalars_keep_their_value(llama: RawFile, save: Save, kind: int, value: object) -> None:
    header = read_header(save(llama.set("test.key", kind, value)))
    assert header.get("test.key") == value
    assert header.metadata["test.key"].type == kind


@pytest.mark.parametrize(("kind", "values"), [(I32, [1, -2, 3]), (F32, [0.5, 2.0]), (U8, [7])])
def test_numeric_arrays_are_arrays(
    llama: RawFile, save: Save, kind: int, values: list[float]
) -> None:
    header = read_header(save(llama.set_array("test.key", kind, values)))
    assert header.array("test.key").tolist() == values  # type: ignore[union-attr]
    assert header.get("test.key") is None


def test_long_numeric_arrays_are_read_when_asked_for(llama: RawFile, save: Save) -> None:
    values = np.arange(50_000, dtype=np.float32)
    path = save(llama.set_array("test.key", F32, values.tolist()))
    ref = read_header(path).array_ref("test.key")
    assert ref is not None
    assert ref.data is None
    assert np.array_equal(read_header(path).numbers("test.key"), values)


def test_string_arrays_decode_on_demand(llama_path: Path) -> None:
    tokens = read_header(llama_path).array("tokenizer.ggml.tokens")
    assert isinstance(tokens, StringArray)
    assert len(tokens) == VOCAB
    assert tokens[0] == "<unk>"
    assert tokens[-1] == words()[-1]
    assert tokens[:3] == ["<unk>", "<s>", "</s>"]
    assert list(tokens) == words()
    assert "<0x0A>" in tokens


def test_strings_of_any_length_are_walked(llama: RawFile, save: Save) -> None:
    lengths = [0, 1, 255, 256, 257, 70_000, 3, *([5] * 1000), 300, *([0] * 500), 1 << 20, 2, 256]
    strings = [bytes([97 + i % 26]) * n for i, n in enumerate(lengths)]
    file = llama.set_array("test.key", STRING, strings).set("test.after", U32, 42)
    header = read_header(save(file))
    assert header.strings("test.key").raws() == strings
    assert header.get("test.after") == 42


def test_strings_span_the_windows_in_which_the_file_is_read(llama: RawFile, save: Save) -> None:
    strings = [b"%d" % i * (1 + i % 40) for i in range(60_000)]
    header = read_header(save(llama.set_array("test.key", STRING, strings)))
    assert header.strings("test.key").raws() == strings


def test_bytes_that_are_not_text_are_kept(llama: RawFile, save: Save) -> None:
    header = read_header(save(llama.set_array("test.key", STRING, [b"\xff\x00\xfe"])))
    assert header.strings("test.key").raw(0) == b"\xff\x00\xfe"
    assert header.strings("test.key")[0] == "\ufffd\x00\ufffd"


def test_a_changed_file_is_not_read_from(llama: RawFile, save: Save) -> None:
    path = save(llama)
    header = read_header(path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(MalformedGGUF, match="changed"):
        header.array("tokenizer.ggml.tokens")


def test_a_removed_file_is_not_found(llama: RawFile, save: Save) -> None:
    path = save(llama)
    header = read_header(path)
    path.unlink()
    with pytest.raises(ModelNotFound, match="gone"):
        header.array("tokenizer.ggml.tokens")


def test_version_2_is_read(llama: RawFile, save: Save) -> None:
    assert read_header(save(RawFile(llama.pairs, llama.tensors, version=2))).name == "tiny"


@pytest.mark.parametrize(
    ("version", "words_of_it"),
    [(1, "version 1"), (4, "update Samovar"), (3 << 24, "big endian")],
)
def test_other_versions_are_unsupported(
    llama: RawFile, save: Save, version: int, words_of_it: str
) -> None:
    with pytest.raises(UnsupportedModel, match=words_of_it):
        read_header(save(RawFile(llama.pairs, llama.tensors, version=version)))


@pytest.mark.parametrize("version", [0, 0x12345, 2**32 - 1])
def test_absurd_versions_are_malformed(llama: RawFile, save: Save, version: int) -> None:
    with pytest.raises(MalformedGGUF):
        read_header(save(RawFile(llama.pairs, llama.tensors, version=version)))


@pytest.mark.parametrize("at", [8, 16])
@pytest.mark.parametrize("count", [2**63, 2**64 - 1, 10**9, 70_000])
def test_absurd_counts_are_malformed(llama: RawFile, save: Save, at: int, count: int) -> None:
    data = bytearray(llama.dump())
    data[at : at + 8] = struct.pack("<Q", count)
    with pytest.raises(MalformedGGUF, match="limit"):
        read_header(save(bytes(data)))


@pytest.mark.parametrize("length", [2**64 - 1, 2**40, 10**6])
def test_absurd_lengths_are_malformed(save: Save, length: int) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    for body in (
        struct.pack("<Q", length),
        text("k") + struct.pack("<IQ", STRING, length),
        text("k") + struct.pack("<IIQ", ARRAY, U8, length),
        text("k") + struct.pack("<IIQ", ARRAY, STRING, length),
        text("k") + struct.pack("<IIQQ", ARRAY, STRING, 1, length),
    ):
        with pytest.raises(MalformedGGUF):
            read_header(save(head + body + bytes(64)))


def test_arrays_of_arrays_are_unsupported(llama: RawFile, save: Save) -> None:
    file = RawFile({**llama.pairs, "k": (ARRAY, struct.pack("<IQ", ARRAY, 0))}, llama.tensors)
    with pytest.raises(UnsupportedModel, match="array of arrays"):
        read_header(save(file))


@pytest.mark.parametrize(
    "pair",
    [(99, b""), (BOOL, b"\x02"), (ARRAY, struct.pack("<IQ", 77, 0))],
)
def test_broken_values_are_malformed(llama: RawFile, save: Save, pair: tuple[int, bytes]) -> None:
    with pytest.raises(MalformedGGUF):
        read_header(save(RawFile({**llama.pairs, "k": pair}, llama.tensors)))


def test_a_key_may_come_only_once(save: Save) -> None:
    pair = text("a") + struct.pack("<IB", U8, 1)
    with pytest.raises(MalformedGGUF, match="twice"):
        read_header(save(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + pair + pair))


@pytest.mark.parametrize("key", ["", "a\0b", "a\nb", "k" * 2000])
def test_keys_are_short_printable_text(llama: RawFile, save: Save, key: str) -> None:
    with pytest.raises(MalformedGGUF):
        read_header(save(RawFile({**llama.pairs, key: scalar(U8, 1)}, llama.tensors)))


@pytest.mark.parametrize(
    "tensor", [RawTensor("n" * 64, (1,), 0, b""), RawTensor("n", (1,) * 5, 0, b"")]
)
def test_tensor_rows_have_their_limits(llama: RawFile, save: Save, tensor: RawTensor) -> None:
    with pytest.raises(MalformedGGUF):
        read_header(save(llama.with_tensors([tensor])))


@pytest.mark.parametrize(
    "pair", [scalar(U32, 0), scalar(U32, 48), scalar(U64, 32), array(U32, [32])]
)
def test_the_alignment_is_a_power_of_two(
    llama: RawFile, save: Save, pair: tuple[int, bytes]
) -> None:
    with pytest.raises(MalformedGGUF, match=r"general\.alignment"):
        read_header(save(RawFile({**llama.pairs, "general.alignment": pair}, llama.tensors)))


def test_the_quantisation_is_the_label_while_it_fits_the_tensors(
    llama: RawFile, save: Save
) -> None:
    assert read_header(save(llama)).quantization == "F32"
    lying = llama.set("general.file_type", U32, 15)
    assert read_header(save(lying)).quantization == "F32"
    assert read_header(save(llama.without("general.file_type"))).quantization == "F32"


def test_per_layer_numbers_come_from_scalars_and_arrays(llama: RawFile, save: Save) -> None:
    key = "attention.head_count_kv"
    assert read_header(save(llama)).per_layer(key) == (2, 2)
    header = read_header(save(llama.set_array(f"llama.{key}", I32, [4, 1])))
    assert header.per_layer(key) == (4, 1)
    assert header.n_head_kv == 4


def test_named_chat_templates_are_found(llama: RawFile, save: Save) -> None:
    header = read_header(save(llama.set("tokenizer.chat_template.tool_use", STRING, "t")))
    assert header.chat_templates == {"default": header.chat_template, "tool_use": "t"}


def test_wrongly_typed_facts_are_none(llama: RawFile, save: Save) -> None:
    file = llama.set("general.name", U32, 1).set("llama.block_count", STRING, "two")
    header = read_header(save(file))
    assert header.name is None
    assert header.n_layer is None
    assert header.per_layer("attention.head_count") == ()


def test_what_is_no_file_is_not_found(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, words_of_it in (
        (tmp_path / "missing.gguf", "does not exist"),
        (tmp_path, "directory"),
        (fifo, "regular file"),
        (loop, "cannot be opened"),
        ("a\0b", "cannot be opened"),
        ("x" * 5000, "cannot be opened"),
    ):
        with pytest.raises(ModelNotFound, match=words_of_it):
            read_header(path)
