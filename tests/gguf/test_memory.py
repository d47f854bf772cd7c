from __future__ import annotations

import pytest
from gguf_files import BOOL, I32, STRING, U32, RawFile, Save

from samovar.errors import InvalidRequest
from samovar.gguf import kv_bytes_per_token, read_header, weights_bytes


def renamed(llama: RawFile, name: str) -> RawFile:
    pairs = {key.replace("llama.", f"{name}."): pair for key, pair in llama.pairs.items()}
    return RawFile(pairs, llama.tensors).set("general.architecture", STRING, name)


def test_kv_is_both_heads_of_every_layer(llama: RawFile, save: Save) -> None:
    # 2 layers, 2 pairs of heads of 8 elements in 2 bytes each.
    kv = kv_bytes_per_token(read_header(save(llama)))
    assert (kv.full, kv.windowed, kv.state) == (2 * 2 * 2 * 8 * 2, 0, 0)
    assert kv.lane_bytes(1000, 64) == 128 * 1000


def test_kv_types_count_in_blocks(llama: RawFile, save: Save) -> None:
    wide = llama.set("llama.attention.key_length", U32, 64)
    wide = wide.set("llama.attention.value_length", U32, 64)
    kv = kv_bytes_per_token(read_header(save(wide)), "q8_0", "q4_0")
    # 128 elements make 4 blocks, of 34 and of 18 bytes.
    assert kv.full == 2 * (4 * 34 + 4 * 18)


def test_unknown_kv_types_are_refused(llama: RawFile, save: Save) -> None:
    with pytest.raises(InvalidRequest, match="q4_k: use one of"):
        kv_bytes_per_token(read_header(save(llama)), "q4_k")


def test_windows_are_counted_apart(llama: RawFile, save: Save) -> None:
    file = renamed(llama, "gemma2").set("gemma2.attention.sliding_window", U32, 1000)
    kv = kv_bytes_per_token(read_header(save(file)))
    assert (kv.full, kv.windowed, kv.window) == (64, 64, 1000)
    # 1,000 + 512 tokens come in 1,536 cells.
    assert kv.lane_bytes(10_000, 512) == 64 * 10_000 + 64 * 1536
    assert kv.lane_bytes(100, 512) == 64 * 100 + 64 * 256


def test_a_pattern_says_which_layers_have_windows(llama: RawFile, save: Save) -> None:
    file = renamed(llama, "gemma3").set("gemma3.attention.sliding_window", U32, 64)
    file = file.set_array("gemma3.attention.sliding_window_pattern", BOOL, [True, True])
    kv = kv_bytes_per_token(read_header(save(file)))
    assert (kv.full, kv.windowed) == (0, 128)


def test_recurrent_layers_have_state_and_no_kv(llama: RawFile, save: Save) -> None:
    file = renamed(llama, "lfm2").set("lfm2.shortconv.l_cache", U32, 3)
    file = file.set_array("lfm2.attention.head_count_kv", I32, [0, 2])
    kv = kv_bytes_per_token(read_header(save(file)))
    assert (kv.full, kv.state) == (64, 32 * 2 * 4)


def test_a_model_without_attention_has_only_state(llama: RawFile, save: Save) -> None:
    file = renamed(llama, "rwkv7").set("rwkv7.wkv.head_size", U32, 16)
    kv = kv_bytes_per_token(read_header(save(file)))
    assert (kv.full, kv.state) == (0, 2 * 4 * (2 * 32 + 32 * 16))


def test_latent_attention_keeps_one_row(llama: RawFile, save: Save) -> None:
    file = renamed(llama, "deepseek2").set("deepseek2.attention.key_length", U32, 576)
    for what in ("key", "value"):
        file = file.set(f"deepseek2.attention.{what}_length_mla", U32, 128)
    file = file.set("deepseek2.attention.head_count_kv", U32, 1)
    assert kv_bytes_per_token(read_header(save(file))).full == 2 * 576 * 2


def test_what_is_not_all_of_it_says_so(llama: RawFile, save: Save) -> None:
    kv = kv_bytes_per_token(read_header(save(renamed(llama, "deepseek32"))))
    assert not kv.is_exact


def test_encoders_keep_nothing(llama: RawFile, save: Save) -> None:
    assert kv_bytes_per_token(read_header(save(renamed(llama, "bert")))).full == 0


def test_layers_for_drafting_keep_nothing(llama: RawFile, save: Save) -> None:
    file = llama.set("llama.nextn_predict_layers", U32, 1)
    assert kv_bytes_per_token(read_header(save(file))).full == 64


def test_weights_are_the_sum_of_the_tensors(llama: RawFile, save: Save) -> None:
    assert weights_bytes(read_header(save(llama))) == sum(len(t.data) for t in llama.tensors)


def test_absurd_headers_give_figures_and_no_errors(llama: RawFile, save: Save) -> None:
    file = llama.set("llama.block_count", U32, 10**9)
    assert kv_bytes_per_token(read_header(save(file))).full == 0
    assert kv_bytes_per_token(read_header(save(RawFile()))).full == 0
