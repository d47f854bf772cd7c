"""Random numbers that depend on the seed and the position alone, and raw log-probabilities."""

from __future__ import annotations

import numpy as np

from samovar.native.interface import Logprobs

# The words of one Philox block: what each draw of a position is for.
PICK, PICK_MASKED, XTC, XTC_MASKED = range(4)


def uniform(seed: int, position: int, word: int) -> float:
    """A number in [0, 1) for one draw: Philox4x64-10, key `seed`, counter `position + 1`.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011). numpy implements it, and
    counts up before it generates.
    """
    block = np.random.Philox(key=seed, counter=position).random_raw(4)
    return float(int(block[word]) >> 11) * 2.0**-53


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities in double precision."""
    values = logits.astype(np.float64)
    values -= values.max()
    np.exp(values, out=values)
    values /= values.sum()
    return values


def draw(logits: np.ndarray, number: float) -> int | None:
    """The index that `number` in [0, 1) falls on; None when nothing has a probability."""
    sums = softmax(logits).cumsum()
    if not sums[-1] > 0:
        return None
    index = int(sums.searchsorted(number * sums[-1], side="right"))
    return min(index, len(logits) - 1)


def logprobs(logits: np.ndarray, token: int, count: int) -> Logprobs:
    """Log-softmax of raw logits, for the chosen token and the `count` likeliest."""
    values = logits.astype(np.float64)
    peak = values.max()
    values -= peak + np.log(np.exp(values - peak).sum())
    count = min(count, len(values))
    top = np.argpartition(values, -count)[-count:] if count else np.empty(0, np.intp)
    top = top[np.lexsort((top, -values[top]))]
    return Logprobs(float(values[token]), tuple((int(t), float(values[t])) for t in top))
