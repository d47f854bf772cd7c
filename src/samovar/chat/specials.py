"""Where the texts of a vocabulary's special tokens stand, or may come to stand, in a string."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

Span = tuple[int, int]
"""Start and end of a stretch of a string, in characters."""


class Specials:
    """The texts of the tokens that a tokeniser recognises when it parses special tokens.

    That is the CONTROL and UNKNOWN ones. llama.cpp recognises USER_DEFINED ones (such as
    `<think>` of Qwen 3) whatever the flag, so guarding those gains nothing. Built once per
    vocabulary: some have thousands.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = frozenset(text for text in texts if text)
        self._exact = _Index(self.texts)
        self._folded = _Index(frozenset(map(_fold, self.texts)))
        self._longest = max(map(len, self.texts), default=0)
        folded = self._folded.texts
        self._heads = frozenset(text[:size] for text in folded for size in range(1, len(text)))
        self._tails = frozenset(text[size:] for text in folded for size in range(1, len(text)))
        self._joined = "\n\0".join(folded)

    def occurrences(self, text: str) -> Iterator[Span]:
        """Every special text in `text`, overlapping ones too."""
        return self._exact.occurrences(text)

    def likenesses(self, text: str) -> Iterator[Span]:
        """The same in any case of letters, since templates have `upper` and `lower`."""
        return self._folded.occurrences(_fold(text))

    def loose_ends(self, text: str) -> Iterator[Span]:
        """Where special texts reach over an end of `text`, if what is put next to it fits.

        At its end heads of special texts, at its start tails, and all of it when it is part of one;
        each with and without the blanks around `text`, since templates trim.
        """
        folded = _fold(text)
        for start, end in {(0, len(text)), _stripped(folded)}:
            yield from self._heads_before(folded, start, end)
            yield from self._tails_after(folded, start, end)
            if 0 < end - start < self._longest and folded[start:end] in self._joined:
                yield start, end

    def _heads_before(self, folded: str, start: int, end: int) -> Iterator[Span]:
        for size in range(1, min(self._longest, end - start + 1)):
            if folded[end - size : end] in self._heads:
                yield end - size, end

    def _tails_after(self, folded: str, start: int, end: int) -> Iterator[Span]:
        for size in range(1, min(self._longest, end - start + 1)):
            if folded[start : start + size] in self._tails:
                yield start, start + size


class _Index:
    """Texts by their first character and length: one set look-up per place and length."""

    def __init__(self, texts: frozenset[str]) -> None:
        self.texts = texts
        self._lengths: dict[str, list[int]] = {}
        for first, length in sorted({(text[0], len(text)) for text in texts}):
            self._lengths.setdefault(first, []).append(length)
        # The second character rules out most of the places, such as each `<` of a web page.
        starts = {re.escape(text[0]) + f"(?={re.escape(text[1:2])})" for text in texts}
        self._starts = re.compile("|".join(sorted(starts)) or "(?!)")

    def occurrences(self, text: str) -> Iterator[Span]:
        for match in self._starts.finditer(text):
            start = match.start()
            for length in self._lengths[text[start]]:
                end = start + length  # a slice may be shorter, and be another text then
                if end <= len(text) and text[start:end] in self.texts:
                    yield start, end


def _fold(text: str) -> str:
    """`text` in lower case, character for character, so that places stay the same."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


def _stripped(text: str) -> Span:
    start = len(text) - len(text.lstrip())
    return start, max(start, len(text.rstrip()))
