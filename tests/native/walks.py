"""Walks through a grammar that pick any token it allows, as a model without any sense would."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from samovar.native.matcher import Matcher
from samovar.native.vocabulary import Vocabulary

_CLOSING = (b'"', b"]", b"}")


def walk(
    matcher: Matcher, vocabulary: Vocabulary, rng: random.Random, *, limit: int = 1500
) -> bytes | None:
    """The text of one walk; None if it has not come to an end after `limit` tokens.

    It wanders freely at first, and then takes what closes something wherever it may.
    """
    free = rng.choice((0, 5, 20, 80))
    said = b""
    for step in range(limit):
        token = _pick(matcher, vocabulary, rng, closes=step > free)
        if token is None:
            return said
        matcher.consume(token)
        said += vocabulary.piece(token)
    return None


def walks(
    matchers: Iterator[Matcher], vocabulary: Vocabulary, seed: object
) -> Iterator[bytes | None]:
    """The text of a walk with each matcher."""
    for number, matcher in enumerate(matchers):
        yield walk(matcher, vocabulary, random.Random(f"{seed} {number}"))


@lru_cache(4)
def _closing(vocabulary: Vocabulary) -> np.ndarray:
    pieces = map(vocabulary.piece, range(vocabulary.size))
    return np.array([piece.startswith(_CLOSING) for piece in pieces])


def _pick(
    matcher: Matcher, vocabulary: Vocabulary, rng: random.Random, *, closes: bool
) -> int | None:
    """A token that is allowed; None: the end."""
    allowed, ends = matcher.mask(), list(vocabulary.eog_tokens)
    may_end = bool(allowed[ends].any())
    allowed[ends] = False
    if not allowed.any() or (may_end and (closes or rng.random() < 0.3)):
        assert may_end
        return None
    closing = allowed & _closing(vocabulary)
    tokens = np.flatnonzero(closing if closes and closing.any() else allowed)
    return int(tokens[rng.randrange(len(tokens))])
