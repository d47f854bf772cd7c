"""Text to token ids and back: the vocabulary of one model file."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice, pairwise

import llama_cpp.llama_cpp as ll
import numpy as np

from samovar.errors import ContextOverflow, InvalidRequest, NativeError
from samovar.native.checks import check_tokens
from samovar.native.handle import Handle

MAX_TEXT_BYTES = 64 * 2**20
"""Longest text of one call. The tokenisers hold several copies at once."""

_PIECE_BYTES = 64  # longer pieces are rare, and asked for twice
_LARGE_TEXT = 2**20  # below it, tokenizing is quicker than looking at every piece

_TYPES = {0: "none", 1: "spm", 2: "bpe", 3: "wpm", 4: "ugm", 5: "rwkv", 6: "plamo2", 7: "test"}
_CONTROL_OR_UNKNOWN = int(ll.LLAMA_TOKEN_ATTR_CONTROL) | int(ll.LLAMA_TOKEN_ATTR_UNKNOWN)
_USER_DEFINED, _RSTRIP = int(ll.LLAMA_TOKEN_ATTR_USER_DEFINED), int(ll.LLAMA_TOKEN_ATTR_RSTRIP)

# Longer texts are tokenized in parts. llama.cpp's time grows with the square of the number of
# special tokens in one text (a megabyte of `<think>`: a minute); and where it splits a text with
# std::regex, it recurses once per character of a match: 26,000 letters in a row overflow a stack
# of 8 MiB. Its BPE also takes 100 bytes of memory per byte of a word.
_PART_BYTES = 8192
_PART_SPECIALS = 128

# Where a BPE tokenizer's regex splits too: before the lone space in front of a word, and after a
# lone line break; what follows or precedes must not be white space of another script. The last
# such place of a part, or else anywhere but in a character or, most likely, a special token.
_SOLID = rb"(?:(?<=[!-~]%b)|(?<=[\xc3-\xdf][\x80-\xbf]%b)|(?<=[\xe3-\xef][\x80-\xbf][\x81-\xbf]%b))"
_LETTER = rb"[A-Za-z\xc3-\xe0\xe4-\xf4]"
_PART = re.compile(
    rb"(?s:.{1,8191})(?:%b(?= %b)|%b(?=%b))|(?s:.{8064})[^<\[]{0,128}(?![\x80-\xbf])"
    % (_SOLID % (b"", b"", b""), _LETTER, _SOLID % (rb"\n", rb"\n", rb"\n"), _LETTER)
)
# BPE whose tokens may reach across the space between two words: nowhere is safe to cut. The first
# three never recurse, the last only over digits.
_UNSPLIT = ("gemma4", "granite-embed-multi-311m", "sarvam-moe", "superbpe")


class _Pieces(dict[int, bytes]):
    """The bytes of each token that was asked for; any may be asked for."""

    def __init__(self, model: Handle, vocab: int, size: int, *, special: bool) -> None:
        super().__init__()
        self._model = model
        self._vocab = vocab
        self._size = size
        self._special = special

    def __missing__(self, token: int) -> bytes:
        check_tokens([token], self._size)
        _ = self._model.pointer  # not after the model is closed
        length = _PIECE_BYTES
        for _attempt in range(2):
            buffer = (ctypes.c_char * length)()  # not shared: several threads may ask at once
            found = ll.llama_token_to_piece(self._vocab, token, buffer, length, 0, self._special)
            if found >= 0:
                piece = self[token] = buffer.raw[:found]
                return piece
            length = -found
        raise NativeError(f"llama.cpp has no piece for token {token}")


class Vocabulary:
    """The tokens of a model: ids from 0 to `size - 1`, each standing for a piece of bytes.

    It may be asked from several threads at once.
    """

    def __init__(self, model: Handle, owner: object = None) -> None:
        self._model = model
        self._owner = owner  # who holds the vocabulary alone must not lose the model under it
        self._vocab: int = ll.llama_model_get_vocab(model.pointer)
        self.size: int = ll.llama_vocab_n_tokens(self._vocab)
        self.kind: str = _TYPES.get(ll.llama_vocab_type(self._vocab), "unknown")
        self._pieces = _Pieces(model, self._vocab, self.size, special=False)
        self._special_pieces = _Pieces(model, self._vocab, self.size, special=True)
        self._ends: dict[int, bool] = {}
        self._special_patterns: dict[bool, re.Pattern[bytes]] = {}

    @property
    def pointer(self) -> int:
        """llama.cpp's vocabulary, alive as long as the model is."""
        _ = self._model.pointer
        return self._vocab

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the model from being freed under another thread that reads its vocabulary.

        Raises Released if it is closed; when it is closed meanwhile, the next call does.
        """
        self._model.retain()
        try:
            yield
        finally:
            self._model.release()

    def tokenize(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """The ids of `text`.

        `add_special` adds the ids that the model expects around a text (BOS and the like);
        `parse_special` also recognises control tokens written out in it. Text may be bytes; what
        is not valid UTF-8 in them is read as U+FFFD. Raises InvalidRequest for text longer than
        MAX_TEXT_BYTES.
        """
        data = _well_formed(encode(text))
        pointer = self.pointer
        if self.size == 0:
            raise InvalidRequest("this model file carries no vocabulary, so it cannot tokenize")
        parts = self._parts(data, parse_special=parse_special)
        if len(parts) == 1:
            return self._tokenize(pointer, data, add_special, parse_special)
        around = self._tokenize(pointer, b"", add_special, parse_special)
        first = 1 if add_special and self.adds_bos else 0
        tokens = around[:first]
        for part in parts:
            tokens += self._tokenize(pointer, part, False, parse_special)  # noqa: FBT003
        return tokens + around[first:]

    def _parts(self, data: bytes, *, parse_special: bool) -> list[bytes]:
        """A long text, cut where the tokenizer cuts it anyway (see _PART_BYTES)."""
        if len(data) <= _PART_BYTES:
            return [data]
        parts = _cut_after_specials(data, self._specials(parse_special=parse_special))
        if self._splits_words:
            parts = [piece for part in parts for piece in _cut_between_words(part)]
        return parts

    def _specials(self, *, parse_special: bool) -> re.Pattern[bytes]:
        """The tokens that llama.cpp looks for before it tokenizes the text between them."""
        if parse_special not in self._special_patterns:
            attributes, vocab = ll.llama_vocab_get_attr, self.pointer
            wanted = _USER_DEFINED | (_CONTROL_OR_UNKNOWN if parse_special else 0)
            hidden = 0 if parse_special else _CONTROL_OR_UNKNOWN
            texts = {}
            for token in range(self.size):
                attribute = attributes(vocab, token)
                if attribute & wanted and not attribute & hidden:
                    texts[ll.llama_vocab_get_text(vocab, token)] = attribute
            self._special_patterns[parse_special] = _any_of(texts)
        return self._special_patterns[parse_special]

    @cached_property
    def _splits_words(self) -> bool:
        """Whether the tokenizer first splits a text into words with a regular expression."""
        model, split = self._metadata("tokenizer.ggml.model"), self._metadata("tokenizer.ggml.pre")
        return model in ("gpt2", "whitespace") and split not in _UNSPLIT

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        ll.llama_model_meta_val_str(self._model.pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def _tokenize(
        self,
        pointer: int,
        data: bytes,
        add_special: bool,  # noqa: FBT001 - mirrors the native signature
        parse_special: bool,  # noqa: FBT001
    ) -> list[int]:
        ids = np.empty(len(data) + 8, dtype=np.int32)
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
        return (self._special_pieces if special else self._pieces)[token]

    def detokenize(self, tokens: Iterable[int], *, special: bool = False) -> bytes:
        """The bytes of `tokens`, piece by piece. Raises InvalidToken for an id out of range."""
        pieces = self._special_pieces if special else self._pieces
        return b"".join([pieces[token] for token in tokens])

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
        found = self._ends.get(token)
        if found is None:
            found = self._ends[token] = bool(ll.llama_vocab_is_eog(self.pointer, token))
        return found

    @cached_property
    def eog_tokens(self) -> tuple[int, ...]:
        """Every token that ends generation, in ascending order."""
        is_eog, vocab = ll.llama_vocab_is_eog, self.pointer
        return tuple(token for token in range(self.size) if is_eog(vocab, token))

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        """Texts that become a control token only where special tokens are parsed."""
        return tuple(self.control_tokens)

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """The ids of those texts."""
        attributes, vocab = ll.llama_vocab_get_attr, self.pointer
        controls = (t for t in range(self.size) if attributes(vocab, t) & _CONTROL_OR_UNKNOWN)
        return {text: token for token in controls if (text := self.text(token))}

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
    return _within_limit(data)


def _well_formed(data: bytes) -> bytes:
    """`data` with U+FFFD for whatever is not valid UTF-8.

    llama.cpp would end the process at a character beyond U+10FFFF, and read an overlong form of
    a character as that character. Where it spells bytes, it would make three of a space that
    follows half a character.
    """
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return _within_limit(data.decode("utf-8", "replace").encode("utf-8"))
    return data


def _within_limit(data: bytes) -> bytes:
    if len(data) > MAX_TEXT_BYTES:
        raise InvalidRequest(
            f"the text has {len(data)} bytes, more than the {MAX_TEXT_BYTES} of one call; split it"
        )
    return data


def _any_of(texts: dict[bytes, int]) -> re.Pattern[bytes]:
    """Finds any of these tokens, the longest first, with the white space that it swallows."""
    choices = [
        re.escape(text) + (rb"\s*" if texts[text] & _RSTRIP else b"")
        for text in sorted(texts, key=len, reverse=True)
        if text
    ]
    return re.compile(b"|".join(choices) if choices else rb"(?!)")


def _cut_after_specials(data: bytes, specials: re.Pattern[bytes]) -> list[bytes]:
    every = islice(specials.finditer(data), _PART_SPECIALS - 1, None, _PART_SPECIALS)
    ends = [0, *(found.end() for found in every), len(data)]
    return [data[start:end] for start, end in pairwise(ends) if start < end]


def _cut_between_words(data: bytes) -> list[bytes]:
    parts, start = [], 0
    while len(data) - start > _PART_BYTES:
        found = _PART.match(data, start)
        end = found.end() if found else start + _PART_BYTES
        parts.append(data[start:end])
        start = end
    return [*parts, data[start:]]


def _known(token: int) -> int | None:
    return None if token < 0 else token
