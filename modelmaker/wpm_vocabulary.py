"""WordPiece vocabularies, as BERT has them, in the spelling of GGUF.

A piece that starts a word begins with U+2581, a piece inside a word is written bare (the original
files do it the other way round: bare at the start, ## inside).
"""

from __future__ import annotations

import string
from itertools import islice

from gguf import TokenType

from modelmaker.gguf_file import count, text
from modelmaker.vocabulary import Vocabulary, assembled
from modelmaker.words import COMMON, made_up_merges

START = "\u2581"
_NAMED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ENDINGS = ("s", "ed", "ing", "er", "est", "ly", "es", "en", "y", "tion", "ness", "ful", "less")


def wpm_vocabulary(size: int) -> Vocabulary:
    """A vocabulary of that many tokens: letters, common words, endings, made-up words."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pieces = [START + letter for letter in letters] + letters
    pieces += [START + word for word in COMMON] + list(_ENDINGS)
    made_up = ("".join(merge) for merge in made_up_merges(START))
    pieces += islice(made_up, size)
    kept = list(dict.fromkeys(pieces))[: size - len(_NAMED)]
    tokens = [(name, TokenType.CONTROL) for name in _NAMED]
    tokens += [(piece, TokenType.NORMAL) for piece in kept]
    details = {
        "tokenizer.ggml.model": text("bert"),
        "tokenizer.ggml.pre": text("default"),
        "tokenizer.ggml.token_type_count": count(2),
        # llama.cpp puts the beginning-of-sequence token, not the classification token, first, and
        # expects it at 101 unless told.
        "tokenizer.ggml.bos_token_id": count(_NAMED.index("[CLS]")),
        "tokenizer.ggml.cls_token_id": count(_NAMED.index("[CLS]")),
        "tokenizer.ggml.seperator_token_id": count(_NAMED.index("[SEP]")),
        "tokenizer.ggml.eos_token_id": count(_NAMED.index("[SEP]")),
        "tokenizer.ggml.unknown_token_id": count(_NAMED.index("[UNK]")),
        "tokenizer.ggml.padding_token_id": count(_NAMED.index("[PAD]")),
        "tokenizer.ggml.mask_token_id": count(_NAMED.index("[MASK]")),
    }
    return assembled(tokens, details, ())
