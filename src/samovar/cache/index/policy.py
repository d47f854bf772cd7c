"""What a block is worth. Pure functions.

Worth at a time is

    seconds that it would take to compute it again x expected reuse / bytes

and the expected reuse is its *heat*: hits, each of which counts half after every half-life. Both
are kept as logarithms to base 2, and what is kept does not change while time passes:

    level = log2(heat at t) + t / half-life        the same for every t
    rank  = level + log2(seconds / bytes)          greater means worth more, at every t

so that blocks that nobody touches never change places, and a queue of them stays sorted by itself.

Times are seconds of a clock that goes on over restarts; one that jumps back makes later hits count
less, and breaks nothing.
"""

from __future__ import annotations

import math

HALF_LIFE = 86_400.0  # seconds: what is taken up again the next morning still counts half
SECONDS_PER_TOKEN = 0.002  # of recomputation, where nobody measured: a small model on two cores
LEAST_HEAT = 2.0**-20  # of what is worth remembering: twenty half-lives after a hit
COLD = -math.inf
"""The level of what was never hit."""

_LEAST_SECONDS = 1e-9  # a cost of nothing has no logarithm
_MOST_HEAT = 2.0**40  # more hits than there will be: a number that claims them is damaged


def hit(level: float, now: float, weight: float = 1.0, half_life: float = HALF_LIFE) -> float:
    """The level after a hit at `now` that counts `weight` times."""
    other = math.log2(weight) + now / half_life
    low, high = (level, other) if level < other else (other, level)
    return high + math.log2(1.0 + math.exp2(low - high))


def level_of(heat: float, when: float, half_life: float = HALF_LIFE) -> float:
    """The level of a heat that was so much at `when`; COLD where it is no possible heat."""
    if not 0.0 < heat <= _MOST_HEAT or not math.isfinite(when):
        return COLD
    return math.log2(heat) + when / half_life


def heat_at(level: float, now: float, half_life: float = HALF_LIFE) -> float:
    """The hits that still count at `now`; 0 for COLD."""
    exponent = level - now / half_life
    return math.exp2(min(exponent, 1000.0))  # a clock that jumped back overflows nothing


def density(seconds: float, nbytes: int) -> float:
    """log2 of the seconds of computation that each byte keeps."""
    return math.log2(max(seconds, _LEAST_SECONDS) / max(nbytes, 1))


def hit_weight(children: int) -> float:
    """How often a hit counts on a block that so many continue: where ways part, more will come."""
    return 1.0 + math.log2(children) if children > 1 else 1.0
