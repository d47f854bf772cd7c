"""Log-probabilities, in the form of chats and in the older one of completions.

`Pieces` are the bytes of token ids: whoever feeds an encoder has looked up those that occur.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from samovar.types import TokenLogprobs

Pieces = Mapping[int, bytes]

_LEAST = -9999.0
"""OpenAI's number for what cannot be: JSON has no infinity."""


class Alternative(msgspec.Struct, frozen=True):
    """A token that might have come."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class ChatToken(msgspec.Struct, frozen=True):
    """A token that came."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[Alternative, ...]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Of the tokens of an answer's text."""

    content: tuple[ChatToken, ...]
    refusal: None = None


def chat_logprobs(tokens: Iterable[TokenLogprobs], pieces: Pieces) -> ChatLogprobs:
    """In the form of chats."""
    return ChatLogprobs(tuple(_chat_token(one, pieces) for one in tokens))


def _chat_token(one: TokenLogprobs, pieces: Pieces) -> ChatToken:
    data = pieces[one.token]
    top = tuple(
        Alternative(_text(pieces[token]), _finite(value), tuple(pieces[token]))
        for token, value in one.top
    )
    return ChatToken(_text(data), _finite(one.chosen), tuple(data), top)


class TextLogprobs(msgspec.Struct, frozen=True):
    """Of the tokens of a completion, list by list."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]

    @classmethod
    def unscored(cls, token: int, pieces: Pieces, offset: int) -> TextLogprobs:
        """Of a token before which nothing stands, so that nothing is known of it."""
        return cls([_text(pieces[token])], [None], None, [offset])

    def before(self, other: TextLogprobs) -> TextLogprobs:
        """Both lists, one behind the other."""
        top: list[dict[str, float] | None] | None = None
        if self.top_logprobs is not None or other.top_logprobs is not None:
            top = [*self._top(), *other._top()]
        return TextLogprobs(
            self.tokens + other.tokens,
            self.token_logprobs + other.token_logprobs,
            top,
            self.text_offset + other.text_offset,
        )

    def _top(self) -> Sequence[dict[str, float] | None]:
        return [None] * len(self.tokens) if self.top_logprobs is None else self.top_logprobs


class Offsets:
    """Where tokens begin in the text, in characters, one token after the other."""

    def __init__(self, start: int = 0) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._position = start

    def pass_over(self, data: bytes) -> int:
        """Where the token of these bytes begins."""
        began = self._position
        self._position += len(self._decoder.decode(data))
        return began

    def of(self, tokens: Iterable[TokenLogprobs], pieces: Pieces) -> list[int]:
        """Where some more tokens begin."""
        return [self.pass_over(pieces[one.token]) for one in tokens]


def text_logprobs(
    tokens: Sequence[TokenLogprobs], pieces: Pieces, offsets: Sequence[int]
) -> TextLogprobs:
    """In the form of completions; the token that came is among the likeliest in any case.

    `offsets` says where each of them begins.
    """
    has_top = any(one.top for one in tokens)
    return TextLogprobs(
        [_text(pieces[one.token]) for one in tokens],
        [_finite(one.chosen) for one in tokens],
        [_top(one, pieces) for one in tokens] if has_top else None,
        list(offsets),
    )


def _top(one: TokenLogprobs, pieces: Pieces) -> dict[str, float]:
    found: dict[str, float] = {}
    for token, value in (*one.top, (one.token, one.chosen)):
        found.setdefault(_text(pieces[token]), _finite(value))
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _finite(value: float) -> float:
    return max(_LEAST, value)
