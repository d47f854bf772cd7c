from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from gguf_files import (
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U16,
    U32,
    VOCAB,
    RawFile,
    RawTensor,
    Save,
    retyped,
    word_types,
    words,
)

from samovar.errors import MalformedGGUF, SamovarError, UnsupportedModel
from samovar.gguf import check, read_header

Change = Callable[[RawFile], RawFile]


def refusal(save: Save, file: RawFile, kind: type[SamovarError] = MalformedGGUF) -> str:
    with pytest.raises(kind) as raised:
        check(read_header(save(file)))
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_a_valid_model_passes(llama: RawFile, save: Save) -> None:
    check(read_header(save(llama)))


@pytest.mark.parametrize("key", ["context_length", "embedding_length", "block_count"])
@pytest.mark.parametrize("value", [0, 10**9, 2**32 - 1])
def test_absurd_sizes_are_refused(llama: RawFile, save: Save, key: str, value: int) -> None:
    assert f"llama.{key} is {value}" in refusal(save, llama.set(f"llama.{key}", U32, value))


@pytest.mark.parametrize(
    "key",
    [
        "general.architecture",
        "llama.context_length",
        "llama.embedding_length",
        "llama.block_count",
        "llama.attention.head_count",
    ],
)
def test_missing_keys_are_named(llama: RawFile, save: Save, key: str) -> None:
    assert key in refusal(save, llama.without(key))


@pytest.mark.parametrize(
    ("key", "kind", "value", "words_of_it"),
    [
        ("attention.head_count", U32, 0, "missing or 0"),
        ("attention.head_count", U32, 10**9, "outside"),
        ("attention.head_count", U32, 5, "does not divide into 5 heads"),
        ("attention.head_count_kv", U32, 3, "does not divide"),
        ("attention.head_count_kv", U32, 8, "more than heads"),
        ("attention.head_count_kv", U32, 0, "0 key-value heads"),
        ("attention.head_count_kv", U32, 1, "should 8"),
        ("attention.key_length", U32, 2**31, "outside"),
        ("attention.value_length", U32, 16, "needs them equal"),
        ("rope.dimension_count", U32, 4, "rotates whole heads"),
        ("rope.dimension_count", U32, 3, "are rotated"),
        ("rope.scaling.type", STRING, "sideways", "not a kind of scaling"),
        ("rope.scaling.type", STRING, "yarn\0x", "zero byte"),
        ("attention.layer_norm_rms_epsilon", F32, -1e-5, "outside 0 to 1"),
        ("attention.layer_norm_rms_epsilon", F32, math.nan, "is nan"),
        ("rope.freq_base", F32, math.inf, "is inf"),
        ("expert_count", U32, 5000, "outside"),
        ("expert_count", U32, 8, "0 of 8 experts"),
        ("expert_used_count", U32, 2, "2 of 0 experts"),
        ("expert_group_count", U32, 2, "in 2 groups"),
        ("nextn_predict_layers", U32, 2, "all 2 layers"),
        ("pooling_type", U32, 9, "outside 0 to 4"),
        ("attention.sliding_window", U32, 2**31, "outside"),
        ("feed_forward_length", U32, 2**31, "outside"),
    ],
)
def test_numbers_that_cannot_be_true_are_refused(
    llama: RawFile, save: Save, key: str, kind: int, value: object, words_of_it: str
) -> None:
    assert words_of_it in refusal(save, llama.set(f"llama.{key}", kind, value))


@pytest.mark.parametrize(
    ("key", "values", "words_of_it"),
    [
        ("attention.head_count", [4], "1 numbers for 2 layers"),
        ("attention.head_count", [4, -4], "is -4"),
        ("attention.head_count_kv", [2, 3], "layer 1 has 4 heads and 3"),
        ("feed_forward_length", [64] * 3, "3 numbers for 2 layers"),
    ],
)
def test_per_layer_numbers_fit_the_layers(
    llama: RawFile, save: Save, key: str, values: list[int], words_of_it: str
) -> None:
    assert words_of_it in refusal(save, llama.set_array(f"llama.{key}", I32, values))


@pytest.mark.parametrize("key", ["block_count", "attention.head_count", "feed_forward_length"])
@pytest.mark.parametrize(
    ("kind", "value"), [(I32, 2), (U16, 2), (F32, 2.0), (STRING, "2"), (BOOL, True)]
)
def test_values_of_the_wrong_type_are_refused(
    llama: RawFile, save: Save, key: str, kind: int, value: object
) -> None:
    assert "not uint32" in refusal(save, llama.set(f"llama.{key}", kind, value))


@pytest.mark.parametrize("count", [1, 3])
def test_the_layers_are_those_it_says(llama: RawFile, save: Save, count: int) -> None:
    message = refusal(save, llama.set("llama.block_count", U32, count))
    assert f"it says it has {count} layers" in message


def with_architecture(llama: RawFile, name: str) -> RawFile:
    pairs = {key.replace("llama.", f"{name}."): pair for key, pair in llama.pairs.items()}
    return RawFile(pairs, llama.tensors).set("general.architecture", STRING, name)


@pytest.mark.parametrize(
    ("name", "words_of_it"),
    [
        ("llama99", "llama99, which this build of llama.cpp does not know"),
        ("gptj", "does not know"),
        ("t5", "encoder-decoder"),
        ("dream", "diffusion"),
        ("clip", "multimodal projector"),
        ("eagle3", "draft"),
        ("wavtokenizer-dec", "sound"),
        ("plm", "cannot run"),
    ],
)
def test_other_kinds_of_models_are_unsupported(
    llama: RawFile, save: Save, name: str, words_of_it: str
) -> None:
    assert words_of_it in refusal(save, with_architecture(llama, name), UnsupportedModel)


def test_adapters_and_vocabularies_are_no_models(llama: RawFile, save: Save) -> None:
    adapter = llama.set("general.type", STRING, "adapter").set("adapter.type", STRING, "lora")
    assert read_header(save(adapter)).is_adapter
    assert "LoRA adapter" in refusal(save, adapter, UnsupportedModel)
    vocabulary = llama.with_tensors([])
    assert read_header(save(vocabulary)).is_vocab_only
    assert "only a vocabulary" in refusal(save, vocabulary, UnsupportedModel)


def test_a_cut_file_says_how_much_is_missing(llama: RawFile, save: Save) -> None:
    data = llama.dump()
    with pytest.raises(MalformedGGUF, match=f"1000 of its {len(data)} bytes are missing"):
        check(read_header(save(data[:-1000])))


def test_padding_at_the_end_may_be_missing(llama: RawFile, save: Save) -> None:
    tensors = [*llama.tensors, RawTensor("extra.weight", (1,), 0, bytes(4))]
    data = llama.with_tensors(tensors).dump()
    check(read_header(save(data[:-28])))


@pytest.mark.parametrize("type_id", [4, 5, 31, 38, 43, 99, 2**31])
def test_unknown_tensor_types_are_unsupported(llama: RawFile, save: Save, type_id: int) -> None:
    embedding = llama.tensors[0]
    other = RawTensor(embedding.name, embedding.shape, type_id, embedding.data)
    message = refusal(save, llama.replace(embedding.name, other), UnsupportedModel)
    assert "type of tensor token_embd.weight" in message


@pytest.mark.parametrize("type_id", [9, 26, 28])
def test_weights_are_of_types_to_multiply_with(llama: RawFile, save: Save, type_id: int) -> None:
    embedding = llama.tensors[0]
    assert "which weights cannot be" in refusal(
        save, llama.replace(embedding.name, retyped(embedding, type_id))
    )


def test_norms_are_f32(llama: RawFile, save: Save) -> None:
    norm = llama.tensor("output_norm.weight")
    assert "must be F32" in refusal(save, llama.replace(norm.name, retyped(norm, 1)))


@pytest.mark.parametrize(
    ("shape", "words_of_it"),
    [
        ((32, 0), "has no elements"),
        ((2**40, 2**40), "elements"),
        ((2**63, 1), "elements"),
        ((2**64 - 1,) * 4, "elements"),
    ],
)
def test_absurd_shapes_are_refused(
    llama: RawFile, save: Save, shape: tuple[int, ...], words_of_it: str
) -> None:
    other = RawTensor("token_embd.weight", shape, 0, llama.tensors[0].data)
    assert words_of_it in refusal(save, llama.replace("token_embd.weight", other))


def test_rows_fill_their_blocks(llama: RawFile, save: Save) -> None:
    other = RawTensor("token_embd.weight", (33, 320), 8, bytes(34 * 320))
    assert "blocks of 32" in refusal(save, llama.replace("token_embd.weight", other))


@pytest.mark.parametrize(
    ("offset", "words_of_it"),
    [(0, "overlaps"), (40_961, "not aligned"), (40_992, "gap"), (2**63, "gap")],
)
def test_tensors_follow_each_other(
    llama: RawFile, save: Save, offset: int, words_of_it: str
) -> None:
    norm = llama.tensors[1]
    other = RawTensor(norm.name, norm.shape, norm.type_id, norm.data, offset)
    assert words_of_it in refusal(save, llama.replace(norm.name, other))


def test_a_tensor_may_come_only_once(llama: RawFile, save: Save) -> None:
    assert "twice" in refusal(save, llama.with_tensors([*llama.tensors, llama.tensors[0]]))


def test_small_alignments_are_unsupported(llama: RawFile, save: Save) -> None:
    file = RawFile(llama.set("general.alignment", U32, 8).pairs, llama.tensors, alignment=8)
    assert "needs at least 32" in refusal(save, file, UnsupportedModel)


@pytest.mark.parametrize(
    ("key", "kind", "values", "words_of_it"),
    [
        ("tokens", STRING, [], "has 0 tokens"),
        ("tokens", I32, [1] * VOCAB, "not array of string"),
        ("tokens", STRING, words(VOCAB - 1), "319 tokens, and 320 have weights"),
        ("tokens", STRING, [*words(VOCAB - 1), "<s>"], "1 tokens of the vocabulary repeat others"),
        ("tokens", STRING, [*words(VOCAB - 1), "<s>\0x"], "repeat others"),
        ("tokens", STRING, [*words(VOCAB - 1), "x" * 5000], "longest token has 5000 bytes"),
        ("scores", F32, [0.0] * 5, "5 scores"),
        ("scores", F32, [math.nan] * VOCAB, "not a number"),
        ("scores", STRING, ["x"] * VOCAB, "not array of float32"),
        ("token_type", I32, [1] * 5, "5 token types"),
        ("token_type", I32, [7] * VOCAB, "outside 0 to 6"),
        ("token_type", I32, [-1] * VOCAB, "outside 0 to 6"),
        ("token_type", U32, word_types(), "not array of int32"),
        ("token_type", I32, [6] * VOCAB, "not written <0xNN>"),
    ],
)
def test_the_arrays_of_the_tokenizer_fit(
    llama: RawFile, save: Save, key: str, kind: int, values: list[object], words_of_it: str
) -> None:
    file = llama.set_array(f"tokenizer.ggml.{key}", kind, values)
    assert words_of_it in refusal(save, file)


def test_empty_tokens_differ_from_each_other(llama: RawFile, save: Save) -> None:
    tokens = [*words(VOCAB - 2), "", b"\0hidden"]
    check(read_header(save(llama.set_array("tokenizer.ggml.tokens", STRING, tokens))))
    clash = [*words(VOCAB - 2), "", f"[EMPTY_{VOCAB - 2}]"]
    assert "repeat" in refusal(save, llama.set_array("tokenizer.ggml.tokens", STRING, clash))


def test_spm_spells_every_byte(llama: RawFile, save: Save) -> None:
    tokens = ["odd" if word == "<0x41>" else word for word in words()]
    types = [1 if t == 6 else t for t in word_types()]
    file = llama.set_array("tokenizer.ggml.tokens", STRING, tokens)
    file = file.set_array("tokenizer.ggml.token_type", I32, types)
    assert "byte 0x41" in refusal(save, file, UnsupportedModel)
    tokens[-1] = "A"
    check(read_header(save(file.set_array("tokenizer.ggml.tokens", STRING, tokens))))


@pytest.mark.parametrize("name", ["bos", "eos", "eot", "unknown", "fim_pre"])
def test_special_tokens_are_in_the_vocabulary(llama: RawFile, save: Save, name: str) -> None:
    key = f"tokenizer.ggml.{name}_token_id"
    assert f"{key} is {VOCAB}" in refusal(save, llama.set(key, U32, VOCAB))
    assert "not uint32" in refusal(save, llama.set(key, STRING, "</s>"))


def test_a_padding_token_may_lack_weights(llama: RawFile, save: Save) -> None:
    check(read_header(save(llama.set("tokenizer.ggml.padding_token_id", U32, VOCAB))))


@pytest.mark.parametrize("model", ["none", "no_vocab"])
def test_a_model_has_a_tokenizer(llama: RawFile, save: Save, model: str) -> None:
    file = llama.set("tokenizer.ggml.model", STRING, model)
    assert "no tokenizer" in refusal(save, file, UnsupportedModel)
    missing = llama.without("tokenizer.ggml.model")
    assert "no tokenizer" in refusal(save, missing, UnsupportedModel)


def test_unknown_tokenizers_are_unsupported(llama: RawFile, save: Save) -> None:
    file = llama.set("tokenizer.ggml.model", STRING, "morse")
    assert "morse" in refusal(save, file, UnsupportedModel)


def plain(llama: RawFile, model: str) -> RawFile:
    """The same model with a tokenizer of another kind and no special tokens stated."""
    file = llama.set("tokenizer.ggml.model", STRING, model)
    file = file.set_array("tokenizer.ggml.token_type", I32, [1] * VOCAB)
    for name in ("bos", "eos", "unknown"):
        file = file.without(f"tokenizer.ggml.{name}_token_id")
    return file


def test_bpe_needs_merges(llama: RawFile, save: Save) -> None:
    file = plain(llama, "gpt2")
    assert "merges is missing" in refusal(save, file)
    check(read_header(save(file.set_array("tokenizer.ggml.merges", STRING, ["a b"]))))


def test_tokens_that_text_is_to_get_exist(llama: RawFile, save: Save) -> None:
    file = plain(llama, "gemma4").set_array("tokenizer.ggml.merges", STRING, ["a b"])
    assert "bos_token_id is missing" in refusal(save, file)
    check(read_header(save(file.set("tokenizer.ggml.bos_token_id", U32, 1))))
    ugm = plain(llama, "t5").set("tokenizer.ggml.add_bos_token", BOOL, value=True)
    assert "bos_token_id is missing" in refusal(save, ugm)


def test_wpm_has_no_byte_tokens(llama: RawFile, save: Save) -> None:
    check(read_header(save(plain(llama, "bert"))))
    file = llama.set("tokenizer.ggml.model", STRING, "bert")
    assert "byte tokens" in refusal(save, file)


def test_rwkv_has_a_token_for_every_first_byte(llama: RawFile, save: Save) -> None:
    start = ["<s>", *(f"\\x{byte:02x}" for byte in range(256))]
    tokens = (start + [f"w{i}" for i in range(VOCAB)])[:VOCAB]
    file = plain(llama, "rwkv").set_array("tokenizer.ggml.tokens", STRING, tokens)
    check(read_header(save(file)))
    tokens[1 + ord("w")] = "other"
    assert "byte 0x77" in refusal(save, file.set_array("tokenizer.ggml.tokens", STRING, tokens))


def charsmap(nodes: list[int], replacements: bytes) -> list[int]:
    blob = np.array(nodes, dtype="<u4").tobytes()
    return list(len(blob).to_bytes(4, "little") + blob + replacements)


def ugm(llama: RawFile, table: list[int]) -> RawFile:
    return plain(llama, "t5").set_array("tokenizer.ggml.precompiled_charsmap", U8, table)


def replacing_a_with(offset: int, *, children: int = 1) -> list[int]:
    """A double array of 512 nodes in which the letter `a` ends and leads to `offset`."""
    nodes = [0] * 512
    nodes[0] = 256 << 10
    base = 256 ^ ord("a")
    nodes[base] = ord("a") | 1 << 8 | children << 10
    if base ^ children < len(nodes):
        nodes[base ^ children] = offset | 1 << 31
    return nodes


def test_a_charsmap_that_stays_inside_passes(llama: RawFile, save: Save) -> None:
    check(read_header(save(ugm(llama, charsmap(replacing_a_with(0), b"b\0")))))


@pytest.mark.parametrize(
    ("nodes", "replacements"),
    [
        ([600 << 10] + [0] * 511, b"b\0"),
        ([0] * 100, b"b\0"),
        (replacing_a_with(2), b"b\0"),
        (replacing_a_with(0), b"bb"),
        (replacing_a_with(0, children=2000), b"b\0"),
    ],
)
def test_a_charsmap_that_leads_outside_is_refused(
    llama: RawFile, save: Save, nodes: list[int], replacements: bytes
) -> None:
    assert "outside itself" in refusal(save, ugm(llama, charsmap(nodes, replacements)))


@pytest.mark.parametrize("table", [[], [1, 0, 0], [255, 255, 255, 255, 0, 0, 0, 0, 0]])
def test_a_short_charsmap_is_refused(llama: RawFile, save: Save, table: list[int]) -> None:
    assert "shorter" in refusal(save, ugm(llama, table))


def gemma(llama: RawFile) -> RawFile:
    return with_architecture(llama, "gemma2").set("gemma2.attention.sliding_window", U32, 64)


def test_a_window_needs_a_layer_that_uses_it(llama: RawFile, save: Save) -> None:
    check(read_header(save(gemma(llama))))
    key = "gemma2.attention.sliding_window_pattern"
    assert "no layer that uses it" in refusal(save, gemma(llama).set(key, U32, 1))
    assert "no layer" in refusal(save, gemma(llama).set_array(key, BOOL, [False, False]))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("qwen3next", "full_attention_interval", 0),
        ("dots1", "expert_gating_func", 9),
        ("jamba", "ssm.inner_size", 7),
        ("rwkv7", "wkv.head_size", 0),
        ("rwkv7", "token_shift_count", 1),
    ],
)
def test_numbers_that_one_architecture_divides_by_are_refused(
    llama: RawFile, save: Save, name: str, key: str, value: int
) -> None:
    refusal(save, with_architecture(llama, name).set(f"{name}.{key}", U32, value))


def test_positions_in_three_dimensions_need_their_sections(llama: RawFile, save: Save) -> None:
    file = with_architecture(llama, "qwen2vl")
    assert "dimension_sections is missing" in refusal(save, file)
    key = "qwen2vl.rope.dimension_sections"
    check(read_header(save(file.set_array(key, I32, [2, 1, 1, 0]))))
    assert "does not fit" in refusal(save, file.set_array(key, I32, [9, 1, 1, 0]))
    assert "does not fit" in refusal(save, file.set_array(key, I32, [3, -1, 1, 0]))


def matrix(name: str, *shape: int) -> RawTensor:
    return RawTensor(name, shape, 0, bytes(4 * math.prod(shape)))


def with_more(llama: RawFile, name: str, *tensors: RawTensor) -> RawFile:
    file = with_architecture(llama, name)
    return file.with_tensors([*file.tensors, *tensors])


@pytest.mark.parametrize(
    ("name", "tensors", "words_of_it"),
    [
        ("llama", [matrix("blk.1.ffn_down_exps.weight", 64, 32, 2)], "no ffn_up_exps.weight"),
        ("falcon-h1", [matrix("blk.0.ssm_conv1d.weight", 4, 32)], "no ssm_conv1d.bias"),
        (
            "laguna",
            [matrix("blk.0.attn_gate.weight", 32, 7), matrix("blk.0.attn_k_norm.weight", 8)],
            "gate of width 7",
        ),
    ],
)
def test_tensors_have_those_they_need(
    llama: RawFile, save: Save, name: str, tensors: list[RawTensor], words_of_it: str
) -> None:
    assert words_of_it in refusal(save, with_more(llama, name, *tensors))


def test_a_gate_is_a_row_of_what_is_mixed(llama: RawFile, save: Save) -> None:
    file = with_architecture(llama, "rwkv7").set("rwkv7.wkv.head_size", U32, 8)
    mixed = matrix("blk.0.time_mix_lerp_fused.weight", 32, 1, 1, 6)
    assert "mixes 6 rows" in refusal(save, file.with_tensors([*file.tensors, mixed]))
    gate = [matrix(f"blk.0.time_mix_g{n}.weight", 32, 32) for n in (1, 2)]
    check(read_header(save(file.with_tensors([*file.tensors, mixed, *gate]))))


def test_layers_share_the_kv_of_their_kind(llama: RawFile, save: Save) -> None:
    file = with_architecture(llama, "gemma4").set("gemma4.attention.sliding_window", U32, 64)
    key = "gemma4.attention.sliding_window_pattern"
    assert "1 layers keep KV" in refusal(
        save,
        file.set_array(key, BOOL, [True, False]).set("gemma4.attention.shared_kv_layers", U32, 1),
    )
