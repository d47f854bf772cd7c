"""A GGUF file with a vocabulary and nothing else, for llama.cpp's vocab_only loading."""

from __future__ import annotations

from pathlib import Path

from modelmaker.chat_template import chat_template_text
from modelmaker.gguf_file import general, text, write
from modelmaker.shape import SHAPES, TINY
from modelmaker.vocabularies import vocabulary_for


def build_vocab_only(
    path: str | Path,
    vocab: str | Path | None = None,
    *,
    size: int = SHAPES[TINY].vocabulary_size,
    chat_template: str | None = None,
    name: str | None = None,
) -> Path:
    """Write a vocabulary-only file; the same arguments give the same bytes.

    vocab: "bpe" (the default), "spm", "wpm", or the path of a GGUF file to copy it from.
    size: number of tokens, of vocabularies that are made and not copied.
    """
    words = vocabulary_for(vocab or "bpe", size)
    metadata = general(name or "vocabulary", None) | dict(words.metadata)
    if chat_template is not None:
        metadata["tokenizer.chat_template"] = text(chat_template_text(chat_template))
    write(Path(path), _architecture(metadata["tokenizer.ggml.model"].value), metadata, [])
    return Path(path)


def _architecture(model: str) -> str:
    """An architecture that goes with the tokenizer; llama.cpp wants one but uses none of it."""
    return "bert" if model == "bert" else "llama"
