"""A rendered prompt in stretches of text, and their ids.

A template decides where control tokens written out in its text are meant as such; what a user
wrote is text. So a prompt comes as segments, each with that choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from samovar.native.vocabulary import Vocabulary


class Segment(Protocol):
    """A stretch of rendered prompt text."""

    @property
    def text(self) -> str:
        """What it says."""

    @property
    def parse_special(self) -> bool:
        """Whether control tokens written in it are meant as such."""


Renderer = Callable[[Mapping[str, Any]], Sequence[Segment]]
"""A chat request to text, split where special tokens may and may not be parsed."""


def tokenize_segments(vocabulary: Vocabulary, segments: Sequence[Segment]) -> list[int]:
    """The ids of a rendered prompt, with BOS where the vocabulary wants it and none is there.

    An end token that the vocabulary adds to finished texts is left out: the answer follows.
    """
    tokenizer = SegmentTokenizer(vocabulary)
    tokens: list[int] = []
    for index, segment in enumerate(segments):
        special = segment.parse_special
        tokens += tokenizer.ids(segment.text, parse_special=special, is_first=index == 0)
    return tokenizer.begun(tokens)


class SegmentTokenizer:
    """Tokenizes prompts stretch by stretch."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def ids(self, text: str, *, parse_special: bool, is_first: bool) -> list[int]:
        """The ids of a stretch, the first of a prompt or a later one."""

        def tokenize(text: str) -> list[int]:
            return self._vocabulary.tokenize(text, add_special=False, parse_special=parse_special)

        if is_first or self._vocabulary.kind != "spm":
            return tokenize(text)
        # SentencePiece puts a space before every text it is given; a line break in front of the
        # segment takes that space, and both are cut off again.
        lead, ids = tokenize("\n"), tokenize("\n" + text)
        return ids[len(lead) :] if ids[: len(lead)] == lead else tokenize(text)

    def begun(self, ids: list[int]) -> list[int]:
        """The ids of a prompt, with BOS where the vocabulary wants it and none is there."""
        bos = self._vocabulary.bos
        if self._vocabulary.adds_bos and bos is not None and ids[:1] != [bos]:
            return [bos, *ids]
        return ids

    def spelled(self, ids: Sequence[int], shown: frozenset[int]) -> bytes:
        """The text of ids; of control tokens only of those that are shown. Raises InvalidToken."""
        piece = self._vocabulary.piece
        return b"".join([piece(token, special=token in shown) for token in ids])

    def controls(self, ids: Iterable[int]) -> list[int]:
        """Those ids that are control tokens."""
        known = self._controls
        return [token for token in ids if token in known]

    def is_end(self, token: int) -> bool:
        """Whether generation ends with this token."""
        return token in self._ends

    @cached_property
    def _controls(self) -> frozenset[int]:
        return frozenset(self._vocabulary.control_tokens.values())

    @cached_property
    def _ends(self) -> frozenset[int]:
        return frozenset(self._vocabulary.eog_tokens)
