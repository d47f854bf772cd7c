"""A vocabulary as llguidance wants it, and how the tokenizer spells a text that may go on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import takewhile

import llguidance

from samovar.errors import OperationUnsupported
from samovar.native.vocabulary import Vocabulary

# SentencePiece puts a space before a text. Behind this, which is a token of its own, it does not.
_BEFORE = b"\x02"
_SPELT = 1024  # spellings that are kept: the fixed parts of a few grammars
_LONGEST = 4096  # bytes of a text that are spelt at once


class Pieces:
    """A vocabulary in the shape that llguidance.TokenizerWrapper asks for.

    Control and unknown tokens have no text of their own. What stands for them begins with 0xFF,
    which never begins a text. Raises OperationUnsupported if no text could ever end. Takes up to a
    second; any thread may use it.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        if not vocabulary.eog_tokens:
            raise OperationUnsupported(
                "this vocabulary has no end-of-generation token, so a grammar could never end"
            )
        self.vocabulary = vocabulary
        self.eos_token_id = vocabulary.eog_tokens[0]
        self.bos_token_id = vocabulary.bos
        texts = [vocabulary.piece(token) for token in range(vocabulary.size)]
        self.tokens = [
            text or b"\xff" + vocabulary.piece(token, special=True)
            for token, text in enumerate(texts)
        ]
        self.special_token_ids = [
            token for token, piece in enumerate(self.tokens) if piece.startswith(b"\xff<")
        ]
        self._ordered = sorted(texts)
        self._longest = max(map(len, texts))
        self._before = b""
        if vocabulary.detokenize(self(b"a")) != b"a":
            self._before = _BEFORE
        self._skipped = len(self._tokenize(self._before))
        self._spellings = lru_cache(_SPELT)(self._spell)

    def tokenizer(self) -> llguidance.LLTokenizer:
        """The same, ready for grammars. Takes up to a second."""
        return llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(self), eos_token=list(self.vocabulary.eog_tokens)
        )

    def __call__(self, text: str | bytes) -> list[int]:
        """The ids of a text that goes on from another one."""
        data = text.encode() if isinstance(text, str) else text
        if not self._before:
            return self._tokenize(data)
        return self._tokenize(self._before + data)[self._skipped :]

    def spell(self, data: bytes) -> tuple[list[int], list[int]]:
        """The ids of a text; and those of them that it has however it goes on.

        Of a long one only the beginning is looked at, which does go on.
        """
        whole, sure = self._spellings(data[:_LONGEST])
        return list(whole if len(data) <= _LONGEST else sure), list(sure)

    def _spell(self, data: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
        data = _whole_characters(data)
        whole = tuple(self(data))
        sure = whole
        for cut in set(self._cuts(data)):
            start = _character_start(data, cut)
            spelt = self(data[:start])
            # Where a character itself may be cut, its first bytes may join what is before it.
            sure = _common(sure, spelt if start == cut else spelt[:-1])
        return whole, sure

    def _cuts(self, data: bytes) -> Iterator[int]:
        """Where a token may begin that reaches beyond the end of the text, or white space be split.

        A tokenizer that merges pairs spells what is before such a place as it spells it alone.
        """
        for length in range(1, min(len(data), self._longest) + 1):
            rest = data[-length:]
            if rest.isspace() or self._goes_on(rest):
                yield len(data) - length

    def _goes_on(self, rest: bytes) -> bool:
        """Whether a token begins with this and is longer."""
        at = bisect_right(self._ordered, rest)
        return at < len(self._ordered) and self._ordered[at].startswith(rest)

    def _tokenize(self, data: bytes) -> list[int]:
        return self.vocabulary.tokenize(data, add_special=False)


def _whole_characters(data: bytes) -> bytes:
    """The text without the half of a character at its end."""
    text = data.decode("utf-8", "ignore").encode()
    return text if data.startswith(text) else b""


def _character_start(data: bytes, at: int) -> int:
    while data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _common(first: tuple[int, ...], second: list[int]) -> tuple[int, ...]:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return tuple(token for token, _ in pairs)
