"""Byte-level BPE vocabularies, as GPT-2, Llama 3 and Qwen have them.

All 256 bytes are tokens, so any text can be written. Bytes that do not print are spelt as other
characters: the printable ones stand for themselves, the rest for the characters from 256 on.
"""

from __future__ import annotations

from collections.abc import Sequence

from gguf import GGUFValueType, TokenType

from modelmaker.gguf_file import count, flag, listing, text
from modelmaker.vocabulary import Vocabulary, assembled, chat_tokens, is_printable
from modelmaker.words import merges_for


def _spellings() -> list[str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(256 + n) for n in range(256))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


SPELLINGS = _spellings()
"""The character that stands for each byte."""

_BYTES = {spelling: byte for byte, spelling in enumerate(SPELLINGS)}
_SPACE = SPELLINGS[0x20]


def piece(token: str) -> bytes:
    """The bytes that the token stands for."""
    if all(letter in _BYTES for letter in token):
        return bytes(_BYTES[letter] for letter in token)
    return token.encode()


def bpe_vocabulary(
    size: int, control: Sequence[str] = (), ends: Sequence[str] = ("<|im_end|>",)
) -> Vocabulary:
    """A vocabulary of that many tokens: bytes, common words, made-up words, chat tokens.

    control: further control tokens. ends: those of all that end a text; the first ends a turn, the
    second and third what a model of some families ends otherwise.
    """
    chat = chat_tokens()
    known = {name for name, _ in chat}
    chat += [(name, TokenType.CONTROL) for name in dict.fromkeys(control) if name not in known]
    merges = merges_for(set(SPELLINGS), _SPACE, size - len(SPELLINGS) - len(chat))
    texts = [*SPELLINGS, *("".join(merge) for merge in merges)]
    names = {name: len(texts) + n for n, (name, _) in enumerate(chat)}
    start, ending = names["<|endoftext|>"], [names[one] for one in ends]
    details = {
        "tokenizer.ggml.model": text("gpt2"),
        # The splitting rules of Qwen2: a space belongs to the word after it, digits stand alone,
        # and nothing is tidied up when tokens become text again.
        "tokenizer.ggml.pre": text("qwen2"),
        "tokenizer.ggml.merges": listing([" ".join(m) for m in merges], GGUFValueType.STRING),
        "tokenizer.ggml.bos_token_id": count(start),
        "tokenizer.ggml.eos_token_id": count(ending[0]),
        "tokenizer.ggml.eot_token_id": count(ending[min(1, len(ending) - 1)]),
        "tokenizer.ggml.padding_token_id": count(start),
        "tokenizer.ggml.add_bos_token": flag(on=False),
    }
    if len(ending) > 2:
        details["tokenizer.ggml.eom_token_id"] = count(ending[2])
    unprintable = [token for token, word in enumerate(texts) if not is_printable(piece(word))]
    return assembled([(word, TokenType.NORMAL) for word in texts] + chat, details, unprintable)
