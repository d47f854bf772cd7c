"""Seeded choices, on one side of the line between what is learnt and what is held out.

Every combination that could be memorised (a name with a thing and a place, a tool with its
arguments, two numbers) is drawn with `fresh`. A digest of the combination says on which side it
lies, so training never meets what the evaluation asks, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

_HELD_OUT_SHARE = 8
"""One combination in so many is held out."""

_MANY_TRIES = 10_000
"""More than any category needs; past it the category has nothing on this side."""


def is_held_out(combination: object) -> bool:
    """Whether training must not meet the combination, which must have a stable repr."""
    digest = hashlib.blake2b(repr(combination).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % _HELD_OUT_SHARE == 0


class Draw:
    """A stream of choices. `held_out` chooses the side of combinations.

    `is_late` is true in the second part of the corpus and in what is held out.
    """

    def __init__(self, seed: str, *, held_out: bool = False, is_late: bool | None = None) -> None:
        self._random = random.Random(seed)
        self.held_out = held_out
        self.is_late = held_out if is_late is None else is_late

    def one(self, options: Sequence[T]) -> T:
        """One of the options."""
        return self._random.choice(options)

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """That many different options, in random order."""
        return self._random.sample(options, count)

    def weighted(self, options: Sequence[T], weights: Sequence[float]) -> T:
        """One of the options, as often as its weight says."""
        return self._random.choices(options, weights)[0]

    def number(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return self._random.randint(low, high)

    def chance(self, probability: float) -> bool:
        """True as often as the probability says."""
        return self._random.random() < probability

    def fresh(self, make: Callable[[], T], key: Callable[[T], object] = lambda made: made) -> T:
        """What `make` draws, again and again until its key lies on this side of the line."""
        for _ in range(_MANY_TRIES):
            made = make()
            if is_held_out(key(made)) == self.held_out:
                return made
        raise AssertionError("this category has no combination on this side")
