"""Text to token ids and back: the vocabulary of one model file."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from functools import cached_property

import llama_cpp.llama_cpp as ll
import numpy as np

from samovar.errors import ContextOverflow, InvalidRequest, NativeError
from samovar.native.checks import check_tokens
from samovar.native.handle import Handle

MAX_TEXT_BYTES = 64 * 2**20
"""Longest text of one call. The tokenisers hold several copies at once."""

_LARGE_TEXT = 2**20  # below it, tokenizing is quicker than looking at every piece

_TYPES = {0: "none", 1: "spm", 2: "bpe", 3: "wpm", 4: "ugm", 5: "rwkv", 6: "plamo2", 7: "test"}
_CONTROL_OR_UNKNOWN = int(ll.LLAMA_TOKEN_ATTR_CONTROL) | int(ll.LLAMA_TOKEN_ATTR_UNKNOWN)


class Vocabulary:
    """The tokens of a model: ids from 0 to `size - 1`, each standing for a piece of bytes."""

    def __init__(self, model: Handle) -> None:
        self._model = model
        self._vocab: int = ll.llama_model_get_vocab(model.pointer)
        self.size: int = ll.llama_vocab_n_tokens(self._vocab)
        self.kind: str = _TYPES.get(ll.llama_vocab_type(self._vocab), "unknown")
        self._pieces: dict[int, bytes] = {}
        self._pieces_special: dict[int, bytes] = {}
        self._buffer = ctypes.create_string_buffer(256)

    @property
    def pointer(self) -> int:
        """llama.cpp's vocabulary, alive as long as the model is."""
        _ = self._model.pointer
        return self._vocab

    def tokenize(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """The ids of `text`.

        `add_special` adds the ids that the model expects around a text (BOS and the like);
        `parse_special` also recognises control tokens written out in it. Text that is not valid
        UTF-8 is accepted as bytes. Raises InvalidRequest for text longer than MAX_TEXT_BYTES.
        """
        data = encode(text)
        pointer = self.pointer
        if self.size == 0:
            raise InvalidRequest("this model file carries no vocabulary, so it cannot tokenize")
        capacity = len(data) + 8
        ids = np.empty(capacity, dtype=np.int32)
        count = self._tokenize_into(pointer, data, ids, add_special, parse_special)
        if count < 0:
            ids = np.empty(-count, dtype=np.int32)
            count = self._tokenize_into(pointer, data, ids, add_special, parse_special)
        if count < 0:
            raise NativeError(f"llama.cpp could not tokenize a text of {len(data)} bytes")
        tokens: list[int] = ids[:count].tolist()
        return tokens

    def _tokenize_into(
        self,
        pointer: int,
        data: bytes,
        ids: np.ndarray,
        add_special: bool,  # noqa: FBT001 - mirrors the native signature
        parse_special: bool,  # noqa: FBT001
    ) -> int:
        target = ids.ctypes.data_as(ll.llama_token_p)
        count: int = ll.llama_tokenize(
            pointer, data, len(data), target, len(ids), add_special, parse_special
        )
        return count

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token; control tokens are empty unless `special` asks for their text.

        Pieces concatenate: the bytes of A + B are the bytes of A, then those of B.
        """
        cache = self._pieces_special if special else self._pieces
        found = cache.get(token)
        if found is None:
            found = cache[token] = self._piece(token, special=special)
        return found

    def _piece(self, token: int, *, special: bool) -> bytes:
        self.check([token])
        buffer = self._buffer
        length = ll.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, special)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = ll.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, special)
        if length < 0:
            raise NativeError(f"llama.cpp has no piece for token {token}")
        return buffer.raw[:length]

    def detokenize(self, tokens: Iterable[int], *, special: bool = False) -> bytes:
        """The bytes of `tokens`, piece by piece. Raises InvalidToken for an id out of range."""
        return b"".join([self.piece(token, special=special) for token in tokens])

    def check(self, tokens: Sequence[int]) -> None:
        """Raise InvalidToken unless every id is in the vocabulary (others may abort)."""
        check_tokens(tokens, self.size)

    def require_fits(self, text: str | bytes, length: int) -> None:
        """Raise ContextOverflow for text that cannot fit into `length` tokens, without the work.

        Only vocabularies whose pieces cover a text byte for byte allow the estimate.
        """
        size = len(text)
        if size <= _LARGE_TEXT or self.kind not in ("spm", "bpe"):
            return
        least = size // self._longest_piece
        if least > length:
            raise ContextOverflow(
                f"the prompt has {size} bytes, at least {least} tokens, and the context {length};"
                " shorten the prompt or raise --ctx-size"
            )

    @cached_property
    def _longest_piece(self) -> int:
        return max(1, *(len(self.piece(token, special=True)) for token in range(self.size)))

    def text(self, token: int) -> str:
        """The token's text as the file stores it, escapes and all."""
        self.check([token])
        stored: bytes = ll.llama_vocab_get_text(self.pointer, token) or b""
        return stored.decode("utf-8", "replace")

    def is_eog(self, token: int) -> bool:
        """Whether generation ends with this token."""
        return bool(ll.llama_vocab_is_eog(self._vocab, token))

    @cached_property
    def eog_tokens(self) -> tuple[int, ...]:
        """Every token that ends generation, in ascending order."""
        is_eog, vocab = ll.llama_vocab_is_eog, self.pointer
        return tuple(token for token in range(self.size) if is_eog(vocab, token))

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        """Texts that become a control token only where special tokens are parsed."""
        attributes, vocab = ll.llama_vocab_get_attr, self.pointer
        controls = (t for t in range(self.size) if attributes(vocab, t) & _CONTROL_OR_UNKNOWN)
        return tuple(text for text in map(self.text, controls) if text)

    @property
    def bos(self) -> int | None:
        """The token that begins a text."""
        return _known(ll.llama_vocab_bos(self.pointer))

    @property
    def eos(self) -> int | None:
        """The token that ends a text."""
        return _known(ll.llama_vocab_eos(self.pointer))

    @property
    def eot(self) -> int | None:
        """The token that ends a turn."""
        return _known(ll.llama_vocab_eot(self.pointer))

    @property
    def adds_bos(self) -> bool:
        """Whether `add_special` puts BOS first."""
        return bool(ll.llama_vocab_get_add_bos(self.pointer))


def encode(text: str | bytes) -> bytes:
    """`text` as bytes, within the limit; undecodable bytes that Python smuggled come out again."""
    try:
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError:
        raise InvalidRequest("the text holds half of a surrogate pair; send valid UTF-8") from None
    if len(data) > MAX_TEXT_BYTES:
        raise InvalidRequest(
            f"the text has {len(data)} bytes, more than the {MAX_TEXT_BYTES} of one call; split it"
        )
    return data


def _known(token: int) -> int | None:
    return None if token < 0 else token
