"""Special tokens: inside the vocabulary, and there where text is made to begin and end with them.

The defaults are llama.cpp's own (`impl::load`, src/llama-vocab.cpp). `llama_tokenize` asserts that
a token it is to add exists.
"""

from __future__ import annotations

from typing import NamedTuple

from samovar.gguf.checks.keys import refuse
from samovar.gguf.header import Header, VocabType
from samovar.gguf.values import ValueType

PREFIX = "tokenizer.ggml."
# Models that are trained on get a padding token without weights; llama.cpp ignores it then.
MAY_BE_OUTSIDE = frozenset({"padding_token_id"})
# `llama_token` is a signed 32-bit number.
INTEGER_KINDS = (ValueType.UINT32, ValueType.INT32)


class Defaults(NamedTuple):
    """Special tokens and whether text gets them, unless the file says otherwise."""

    bos: int | None
    eos: int | None
    sep: int | None
    add_bos: bool
    add_eos: bool


DEFAULTS: dict[VocabType, Defaults] = {
    "spm": Defaults(1, 2, None, add_bos=True, add_eos=False),
    "bpe": Defaults(11, 11, None, add_bos=False, add_eos=False),
    "wpm": Defaults(101, None, 102, add_bos=True, add_eos=False),
    "ugm": Defaults(None, 1, None, add_bos=False, add_eos=True),
}
# The pre-tokenizers that make text begin with BOS by themselves.
ADD_BOS = frozenset(
    {
        "chameleon",
        "falcon-h1",
        "falcon3",
        "gemma4",
        "jina-v5-nano",
        "lfm2",
        "llama-bpe",
        "llama-v3",
        "llama3",
        "midm-2.0",
        "pixtral",
        "tekken",
    }
)


def check_specials(header: Header, num_tokens: int) -> None:
    """Raises MalformedGGUF."""
    for key in header.metadata:
        if key.startswith(PREFIX) and key.endswith("_token_id"):
            _check_id(header, key, num_tokens)
    defaults = DEFAULTS.get(header.vocab_type)
    if defaults is None:
        return
    is_gemma = header.text(f"{PREFIX}model") == "gemma4"
    pre = "gemma4" if is_gemma else header.text(f"{PREFIX}pre")
    add_bos = defaults.add_bos or (header.vocab_type == "bpe" and pre in ADD_BOS)
    bos = None if is_gemma else defaults.bos
    eos = None if is_gemma else defaults.eos
    if header.vocab_type == "wpm":
        # This kind adds both whatever the file says.
        _require(header, "bos", bos, num_tokens)
        _require(header, "seperator", defaults.sep, num_tokens)
        return
    if pre == "gemma4" or _flag(header, "add_bos_token", default=add_bos):
        _require(header, "bos", bos, num_tokens)
    if _flag(header, "add_eos_token", default=defaults.add_eos):
        _require(header, "eos", eos, num_tokens)


def _check_id(header: Header, key: str, num_tokens: int) -> None:
    found = header.metadata[key]
    if found.type not in INTEGER_KINDS or not isinstance(found.value, int):
        raise refuse(header, f"{key} is of type {found.label}, not uint32")
    if key.removeprefix(PREFIX) in MAY_BE_OUTSIDE:
        return
    if not 0 <= found.value < num_tokens:
        raise refuse(header, f"{key} is {found.value}, and the vocabulary has {num_tokens} tokens")


def _flag(header: Header, name: str, *, default: bool) -> bool:
    found = header.get(PREFIX + name)
    return found if isinstance(found, bool) else default


def _require(header: Header, name: str, default: int | None, num_tokens: int) -> None:
    key = f"{PREFIX}{name}_token_id"
    if key not in header.metadata and (default is None or default >= num_tokens):
        raise refuse(header, f"text is to get the token {name}, and {key} is missing")
