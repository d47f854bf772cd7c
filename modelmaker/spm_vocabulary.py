"""SentencePiece-like vocabularies, as Llama 2 and Gemma have them.

A space is written as U+2581. Neighbouring pieces merge, those with the highest score first;
characters that are no token are spelt with byte tokens, <0x00> to <0xFF>.
"""

from __future__ import annotations

import string

from gguf import GGUFValueType, TokenType
from gguf.gguf_writer import GGUFValue

from modelmaker.gguf_file import count, flag, listing, text
from modelmaker.vocabulary import Vocabulary, assembled, chat_tokens
from modelmaker.words import merges_for

SPACE = "\u2581"
_NAMED = [
    ("<unk>", TokenType.UNKNOWN),
    ("<s>", TokenType.CONTROL),
    ("</s>", TokenType.CONTROL),
]
_NEWLINE = 0x0A


def spm_vocabulary(size: int) -> Vocabulary:
    """A vocabulary of that many tokens: bytes, letters, common and made-up words, chat tokens."""
    byte_tokens = [(f"<0x{byte:02X}>", TokenType.BYTE) for byte in range(256)]
    letters = [SPACE, *string.digits, *string.ascii_letters, *string.punctuation]
    # No end of text among the chat tokens: that is what </s> is here.
    chat = chat_tokens()[1:]
    fixed = len(_NAMED) + len(byte_tokens) + len(letters) + len(chat)
    words = ["".join(merge) for merge in merges_for(set(letters), SPACE, size - fixed)]
    tokens = [*_NAMED, *byte_tokens]
    tokens += [(piece, TokenType.NORMAL) for piece in [*words, *letters]]
    first_byte = len(_NAMED)
    unprintable = [first_byte + byte for byte in range(256) if byte != _NEWLINE]
    return assembled(tokens + chat, _details(tokens + chat), unprintable)


def _details(tokens: list[tuple[str, TokenType]]) -> dict[str, GGUFValue]:
    ids = {token: n for n, (token, _) in enumerate(tokens)}
    scores = [-float(n) if kind == TokenType.NORMAL else 0.0 for n, (_, kind) in enumerate(tokens)]
    return {
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.pre": text("default"),
        "tokenizer.ggml.scores": listing(scores, GGUFValueType.FLOAT32),
        "tokenizer.ggml.bos_token_id": count(ids["<s>"]),
        "tokenizer.ggml.eos_token_id": count(ids["</s>"]),
        "tokenizer.ggml.eot_token_id": count(ids["<|im_end|>"]),
        "tokenizer.ggml.unknown_token_id": count(ids["<unk>"]),
        "tokenizer.ggml.padding_token_id": count(ids["</s>"]),
        "tokenizer.ggml.add_bos_token": flag(on=True),
        "tokenizer.ggml.add_eos_token": flag(on=False),
    }
