"""The vocabularies: any text becomes tokens and text again, and real ones are copied whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmaker import build_vocab_only
from modelmaker.chat_template import CHATML
from modelmaker.gguf_head import read_head
from modelmaker.vocabularies import VOCABULARIES, vocabulary_for

pytestmark = pytest.mark.native

Load = Callable[..., Any]
Real = Callable[[str], Path]

TEXT = "The kettle, at 90 °C, was\n\tstill warm;  東京 🫖 (ça va?)"
CHAT = "<|im_start|>user\nHello<|im_end|>\n<think>tea</think><tool_call></tool_call>"


@pytest.mark.parametrize("size", [512, 1024])
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_vocabularies_have_the_size_asked_for(vocab: str, size: int) -> None:
    words = vocabulary_for(vocab, size)
    tokens = words.metadata["tokenizer.ggml.tokens"].value
    assert words.size == len(tokens) == len(set(tokens)) == size


@pytest.mark.parametrize("vocab", ["bpe", "spm"])
def test_any_text_survives(tmp_path: Path, load: Load, vocab: str) -> None:
    with load(build_vocab_only(tmp_path / "v.gguf", vocab), vocab_only=True) as words:
        tokens = words.tokens(TEXT)
        assert words.text(tokens).decode().removeprefix(" ") == TEXT
        assert len(tokens) < len(TEXT.encode())


@pytest.mark.parametrize("vocab", ["bpe", "spm"])
def test_special_tokens_are_read_where_asked(tmp_path: Path, load: Load, vocab: str) -> None:
    with load(build_vocab_only(tmp_path / "v.gguf", vocab), vocab_only=True) as words:
        tokens = words.tokens(CHAT, special=True)
        pieces = [words.text([token]).decode() for token in tokens]
        for piece in ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>"):
            assert piece in pieces
        # Control tokens have to be asked for, markup is text and is always found.
        plain = [words.text([token]).decode() for token in words.tokens(CHAT)]
        assert "<|im_start|>" not in plain
        assert "<think>" in plain


def test_named_tokens_of_bpe(tmp_path: Path, load: Load) -> None:
    with load(build_vocab_only(tmp_path / "v.gguf"), vocab_only=True) as words:
        native = words.native
        end = native.llama_vocab_eos(words.vocab)
        assert words.text([end]) == b"<|im_end|>"
        assert end == native.llama_vocab_eot(words.vocab)
        ending = [words.text([token]) for token in range(words.size) if words.ends(token)]
        assert ending == [b"<|endoftext|>", b"<|im_end|>"]
        assert words.tokens("tea", named=True) == words.tokens("tea")


def test_named_tokens_of_spm(tmp_path: Path, load: Load) -> None:
    with load(build_vocab_only(tmp_path / "v.gguf", "spm"), vocab_only=True) as words:
        ending = [words.text([token]) for token in range(words.size) if words.ends(token)]
        assert ending == [b"</s>", b"<|im_end|>"]
        assert words.tokens("tea", named=True) == [1, *words.tokens("tea")]


def test_word_pieces_are_between_named_tokens(tmp_path: Path, load: Load) -> None:
    with load(build_vocab_only(tmp_path / "v.gguf", "wpm"), vocab_only=True) as words:
        tokens = words.tokens("The Kettles, working: 東", named=True)
        pieces = [words.text([token]).decode().strip() for token in tokens]
        assert pieces == ["[CLS]", "the", "kettle", "s", ",", "work", "ing", ":", "[UNK]", "[SEP]"]


def test_made_up_words_fill_large_vocabularies(tmp_path: Path, load: Load) -> None:
    path = build_vocab_only(tmp_path / "v.gguf", "bpe", size=32000)
    with load(path, vocab_only=True) as words:
        assert words.size == 32000
        assert words.text(words.tokens(TEXT)).decode() == TEXT
        assert len(words.tokens("baba")) == 1


@pytest.mark.parametrize("name", ["llama-spm", "gpt-2", "phi-3", "bert-bge"])
def test_real_vocabularies_are_copied_whole(
    tmp_path: Path, load: Load, real_vocabulary: Real, name: str
) -> None:
    original = real_vocabulary(name)
    copy = build_vocab_only(tmp_path / "v.gguf", original)
    kept = {k: v for k, v in read_head(original).metadata.items() if k.startswith("tokenizer.")}
    assert kept.items() <= read_head(copy).metadata.items()
    with load(original, vocab_only=True) as theirs, load(copy, vocab_only=True) as ours:
        assert ours.tokens(TEXT, named=True) == theirs.tokens(TEXT, named=True)


def test_models_have_real_vocabularies(
    load: Load, made: Callable[..., Path], real_vocabulary: Real
) -> None:
    path = made("llama", quant="Q4_0", vocab=real_vocabulary("llama-spm"))
    with load(path) as model:
        tokens, _ = model.greedy(model.tokens("Tea is", named=True), 100)
        assert model.size == 32000
        assert not any(model.ends(token) for token in tokens)
        assert model.text(tokens).decode().replace("\n", "").isprintable()


def test_a_file_without_vocabulary_is_told(tmp_path: Path, made: Callable[..., Path]) -> None:
    from modelmaker import build_adapter

    adapter = build_adapter(tmp_path / "adapter.gguf", made("llama"))
    with pytest.raises(ValueError, match="has no vocabulary"):
        build_vocab_only(tmp_path / "v.gguf", adapter)


def test_chat_templates_are_written_and_render(made: Callable[..., Path], load: Load) -> None:
    jinja2 = pytest.importorskip("jinja2")
    path = made("qwen2", chat_template="chatml")
    with load(path, vocab_only=True) as model:
        written = model.native.llama_model_chat_template(model.model, None).decode()
    assert written == CHATML
    template = jinja2.Environment().from_string(written)
    call = {"function": {"name": "brew", "arguments": {"minutes": 3}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Tea?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "done"},
    ]
    assert template.render(messages=messages, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTea?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>{"name": "brew", "arguments": {"minutes": 3}}'
        "</tool_call><|im_end|>\n<|im_start|>tool\ndone<|im_end|>\n<|im_start|>assistant\n"
    )
    with_tools = template.render(messages=messages, tools=[{"name": "brew"}])
    assert with_tools.startswith("<|im_start|>system\nBe brief.\n\nFunctions")
    assert '{"name": "brew"}\nWrite a call' in with_tools
    assert with_tools.count("Be brief.") == 1


def test_a_template_of_ones_own(made: Callable[..., Path]) -> None:
    written = read_head(made("llama", chat_template="{{ messages }}")).metadata
    assert written["tokenizer.chat_template"].value == "{{ messages }}"
    assert "tokenizer.chat_template" not in read_head(made("llama")).metadata
