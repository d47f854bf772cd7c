"""A rendered prompt in stretches of text, and their ids.

A template decides where control tokens written out in its text are meant as such; what a user
wrote is text. So a prompt comes as segments, each with that choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    tokens: list[int] = []
    for index, segment in enumerate(segments):
        tokens += _tokenize(vocabulary, segment, is_first=index == 0)
    bos = vocabulary.bos
    if vocabulary.adds_bos and bos is not None and tokens[:1] != [bos]:
        tokens.insert(0, bos)
    return tokens


def _tokenize(vocabulary: Vocabulary, segment: Segment, *, is_first: bool) -> list[int]:
    def tokenize(text: str) -> list[int]:
        return vocabulary.tokenize(text, add_special=False, parse_special=segment.parse_special)

    if is_first or vocabulary.kind != "spm":
        return tokenize(segment.text)
    # SentencePiece puts a space before every text it is given; a line break in front of the
    # segment takes that space, and both are cut off again.
    lead, ids = tokenize("\n"), tokenize("\n" + segment.text)
    return ids[len(lead) :] if ids[: len(lead)] == lead else tokenize(segment.text)
