"""A vocabulary: the tokenizer.* metadata of a model and what kind of text each token is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from gguf import GGUFValueType, TokenType
from gguf.gguf_writer import GGUFValue

from modelmaker.gguf_file import listing
from modelmaker.tensor import Floats

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Tokens that are never shown as text."""

MARKUP_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Tokens of their own whose text is shown (USER_DEFINED)."""

_TEXT_TYPES = (TokenType.NORMAL, TokenType.BYTE)
_WEAK = np.float32(0.05)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens, as metadata to write and as sets of tokens a model should rarely say."""

    metadata: Mapping[str, GGUFValue]
    size: int
    special: frozenset[int]
    """Tokens that are no text of their own: control, markup, unknown, unused ones."""
    unprintable: frozenset[int]
    """Tokens whose bytes are not printable UTF-8 by themselves."""

    def row_gain(self, special_gain: float, *, raw_bytes: bool) -> Floats:
        """How strongly each row of the output matrix speaks.

        The rows of special tokens get `special_gain`: well below 1 they are never the likeliest,
        above 1 they often are. Unprintable ones are never the likeliest unless `raw_bytes`.
        """
        gain = np.ones(self.size, np.float32)
        if not raw_bytes:
            gain[sorted(self.unprintable)] = _WEAK
        gain[sorted(self.special)] = special_gain
        return gain


def special_tokens(types: list[int], metadata: Mapping[str, GGUFValue]) -> frozenset[int]:
    """Tokens whose type is no text type, and those the metadata names (end of sequence, ...)."""
    by_type = {token for token, kind in enumerate(types) if kind not in _TEXT_TYPES}
    by_name = {int(v.value) for key, v in metadata.items() if key.endswith("_token_id")}
    return frozenset(by_type | by_name)


def is_printable(piece: bytes) -> bool:
    """Whether these bytes can stand alone in a printed text."""
    try:
        found = piece.decode()
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter == "\n" for letter in found)


def token_lists(tokens: Iterable[tuple[str, TokenType]]) -> dict[str, GGUFValue]:
    """The metadata that lists the tokens and their types."""
    texts, types = zip(*tokens, strict=True)
    return {
        "tokenizer.ggml.tokens": listing(list(texts), GGUFValueType.STRING),
        "tokenizer.ggml.token_type": listing([int(kind) for kind in types]),
    }


def chat_tokens() -> list[tuple[str, TokenType]]:
    """The control and markup tokens that chats are written with."""
    control = [(token, TokenType.CONTROL) for token in CONTROL_TOKENS]
    return control + [(token, TokenType.USER_DEFINED) for token in MARKUP_TOKENS]


def assembled(
    tokens: list[tuple[str, TokenType]],
    details: Mapping[str, GGUFValue],
    unprintable: Iterable[int],
) -> Vocabulary:
    """The vocabulary of these tokens, with details such as its model, merges and named tokens."""
    metadata = {**details, **token_lists(tokens)}
    special = special_tokens([int(kind) for _, kind in tokens], metadata)
    return Vocabulary(metadata, len(tokens), special, frozenset(unprintable))
