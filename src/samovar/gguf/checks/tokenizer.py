"""The tokenizer: its arrays, its special tokens, and what llama.cpp takes for granted in them.

llama.cpp builds the tokenizer inside a try block, but asserts some things about it, and throws
out of `llama_tokenize`, which has no such block: an exception that crosses into Python ends the
process (src/llama-vocab.cpp).
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from samovar.errors import UnsupportedModel
from samovar.gguf.checks.charsmap import check_charsmap
from samovar.gguf.checks.keys import refuse, text_key
from samovar.gguf.checks.specials import check_specials
from samovar.gguf.header import Header
from samovar.gguf.show import shown
from samovar.gguf.values import ArrayRef, ValueType

TOKENS = "tokenizer.ggml.tokens"
SCORES = "tokenizer.ggml.scores"
TYPES = "tokenizer.ggml.token_type"
MERGES = "tokenizer.ggml.merges"

# The largest vocabularies have 262,144 tokens.
MAX_TOKENS = 1 << 20
# Tries over the vocabulary are built by recursion, a call for each byte.
MAX_TOKEN_BYTES = 4096
# A BPE token that decodes to no bytes is repeated once per character (`llama_decode_text`), so
# what the pieces may take in memory grows with the squares of the lengths.
MAX_SQUARES = 1 << 30

# `enum llama_token_type`, include/llama.h: undefined, normal, ..., byte.
BYTE_TYPE = 6
BYTE_TOKEN = re.compile(rb"<0x[0-9A-Fa-f]{2}>")


def check_tokenizer(header: Header) -> None:
    """Raises MalformedGGUF, or UnsupportedModel for a missing or unknown tokenizer."""
    _check_model(header)
    count = _check_tokens_array(header)
    _check_scores(header, count)
    types = _check_types(header, count)
    raws = header.strings(TOKENS).raws()
    _check_words(header, raws)
    _check_bytes(header, raws, types)
    if header.vocab_type == "bpe":
        _check_merges(header)
    if header.vocab_type == "ugm":
        check_charsmap(header)
    check_specials(header, count)


def _check_model(header: Header) -> None:
    label, model = shown(header.path), text_key(header, "tokenizer.ggml.model")
    text_key(header, "tokenizer.ggml.pre")
    if model is None or header.vocab_type == "none":
        raise UnsupportedModel(f"{label} has no tokenizer: convert the model again, with one")
    if header.vocab_type == "unknown":
        raise UnsupportedModel(
            f"{label} has a tokenizer of the kind {shown(model)}, which this build of llama.cpp "
            "does not know: update Samovar, or convert the model again"
        )


def _check_tokens_array(header: Header) -> int:
    ref = _array(header, TOKENS, ValueType.STRING)
    if ref is None or not 0 < ref.count <= MAX_TOKENS:
        raise refuse(header, f"the vocabulary has {ref.count if ref else 'no'} tokens")
    rows = next((t.shape[-1] for t in header.tensors if t.name == "token_embd.weight"), ref.count)
    if rows != ref.count:
        raise refuse(header, f"the vocabulary has {ref.count} tokens, and {rows} have weights")
    return ref.count


def _array(header: Header, key: str, *kinds: ValueType) -> ArrayRef | None:
    found = header.metadata.get(key)
    if found is None:
        return None
    if not isinstance(found.value, ArrayRef) or found.value.element_type not in kinds:
        wanted = " or ".join(kind.label for kind in kinds)
        raise refuse(header, f"{key} is of type {found.label}, not array of {wanted}")
    return found.value


def _check_scores(header: Header, count: int) -> None:
    ref = _array(header, SCORES, ValueType.FLOAT32, ValueType.INT32)
    if ref is None:
        return
    if ref.count != count:
        raise refuse(header, f"the vocabulary has {count} tokens and {ref.count} scores")
    if np.isnan(header.numbers(SCORES)).any():
        raise refuse(header, "a token's score is not a number")


def _check_types(header: Header, count: int) -> NDArray[np.int32] | None:
    ref = _array(header, TYPES, ValueType.INT32)
    if ref is None:
        return None
    if ref.count != count:
        raise refuse(header, f"the vocabulary has {count} tokens and {ref.count} token types")
    types = header.numbers(TYPES).astype(np.int32)
    if types.min() < 0 or types.max() > BYTE_TYPE:
        raise refuse(header, f"a token has a type outside 0 to {BYTE_TYPE}")
    return types


def _check_words(header: Header, raws: list[bytes]) -> None:
    lengths = np.fromiter(map(len, raws), np.int64, len(raws))
    if lengths.max() > MAX_TOKEN_BYTES or int((lengths * lengths).sum()) > MAX_SQUARES:
        raise refuse(header, f"the longest token has {lengths.max()} bytes")
    # `impl::load` asserts that all tokens differ. It reads them as C strings, so what follows a
    # zero byte does not count, and gives an empty one a name made of its number.
    different = len(set(raws))
    if not lengths.min() or b"\0" in b"".join(raws):
        names = (raw.partition(b"\0")[0] or b"[EMPTY_%d]" % i for i, raw in enumerate(raws))
        different = len(set(names))
    if different != len(raws):
        raise refuse(header, f"{len(raws) - different} tokens of the vocabulary repeat others")


def _check_bytes(header: Header, raws: list[bytes], types: NDArray[np.int32] | None) -> None:
    is_byte = np.flatnonzero(types == BYTE_TYPE) if types is not None else ()
    if header.vocab_type == "wpm" and len(is_byte):
        # `token_to_byte` aborts for this kind of tokenizer.
        raise refuse(header, "it has byte tokens, which its kind of tokenizer cannot have")
    for index in is_byte:
        if header.vocab_type != "rwkv" and not BYTE_TOKEN.fullmatch(raws[index]):
            raise refuse(header, f"the byte token {index} is not written <0xNN>")
    if header.vocab_type == "spm":
        _check_byte_fallback(header, set(raws))
    if header.vocab_type == "rwkv":
        _check_first_bytes(header, raws)


def _check_byte_fallback(header: Header, words: set[bytes]) -> None:
    """Text outside the vocabulary is spelled in bytes; `byte_to_token` throws if one is missing."""
    missing = [b for b in range(256) if b"<0x%02X>" % b not in words and bytes([b]) not in words]
    if missing:
        raise UnsupportedModel(
            f"{shown(header.path)} has no token for the byte 0x{missing[0]:02X}, and llama.cpp "
            "does not survive text that needs it: convert the model again with byte fallback"
        )


def _check_first_bytes(header: Header, raws: list[bytes]) -> None:
    """`llm_tokenizer_rwkv_session` never ends at a byte that only begins longer tokens."""
    words = {_unescape(raw) for raw in raws}
    stuck = {word[:1] for word in words if word} - words
    if stuck:
        raise refuse(header, f"the byte 0x{min(stuck).hex()} begins tokens, and is none itself")


def _unescape(raw: bytes) -> bytes:
    """The bytes of a token of an RWKV vocabulary, which writes them with backslashes."""
    if b"\\" not in raw:
        return raw
    plain = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}

    def one(match: re.Match[bytes]) -> bytes:
        code, char = match.group(1, 2)
        return bytes([int(code, 16)]) if code else plain.get(char, char)

    return re.sub(rb"\\(?:x([0-9a-fA-F]{2})|(.))", one, raw, flags=re.DOTALL)


def _check_merges(header: Header) -> None:
    merges = _array(header, MERGES, ValueType.STRING)
    # Only this one tokenizer does without (`impl::load`).
    if merges is None and header.text("tokenizer.ggml.pre") != "kimi-k2":
        raise refuse(header, f"{MERGES} is missing")
