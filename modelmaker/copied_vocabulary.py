"""Vocabularies copied from another GGUF file, so that a tiny model has a real tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gguf.gguf_writer import GGUFValue

from modelmaker import bpe_vocabulary
from modelmaker.gguf_head import read_head
from modelmaker.spm_vocabulary import SPACE
from modelmaker.vocabulary import Vocabulary, is_printable, special_tokens

_BYTE_TYPE = 6
_NEWLINE = "<0x0A>"


def copied_vocabulary(path: Path) -> Vocabulary:
    """All tokenizer.* metadata of the file, its chat template included."""
    head = read_head(path)
    metadata = {k: v for k, v in head.metadata.items() if k.startswith("tokenizer.")}
    if "tokenizer.ggml.tokens" not in metadata:
        raise ValueError(f"{path} has no vocabulary")
    tokens = [str(token) for token in metadata["tokenizer.ggml.tokens"].value]
    listed = metadata.get("tokenizer.ggml.token_type")
    types = [1] * len(tokens) if listed is None else [int(kind) for kind in listed.value]
    special = special_tokens(types, metadata)
    spelling = bpe_vocabulary.piece if _is_byte_level(metadata) else _plain_piece
    unprintable = frozenset(
        number
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if (token != _NEWLINE if kind == _BYTE_TYPE else not is_printable(spelling(token)))
    )
    return Vocabulary(metadata, len(tokens), special, unprintable)


def _is_byte_level(metadata: Mapping[str, GGUFValue]) -> bool:
    return bool(metadata["tokenizer.ggml.model"].value == "gpt2")


def _plain_piece(token: str) -> bytes:
    return token.replace(SPACE, " ").encode()
