"""Random numbers that depend on the seed and the position alone, and raw log-probabilities."""

from __future__ import annotations

import numpy as np

from samovar.native.interface import Logprobs

# The words of one Philox block: what each draw of a position is for.
PICK, PICK_MASKED, XTC, XTC_MASKED = range(4)

_BLOCK = 256  # logits: about the square root of a vocabulary, so that both looks are short


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
    """Log-softmax of raw logits, for the chosen token and the `count` likeliest.

    Exact to about 1e-6: exponentials of single precision take a fifth of the time.
    """
    peak = logits.max()
    total = np.exp(logits - peak).sum(dtype=np.float64)
    whole = float(peak) + float(np.log(total))
    top = likeliest(logits, count)
    return Logprobs(
        float(logits[token]) - whole,
        tuple((int(t), float(logits[t]) - whole) for t in top),
    )


def likeliest(logits: np.ndarray, count: int) -> np.ndarray:
    """The ids of the `count` largest logits, the largest first, and of equal ones the lower."""
    count = min(count, len(logits))
    if not count:
        return np.empty(0, np.intp)
    # Each of so many blocks holds one that is no less than the least of their peaks.
    peaks = np.maximum.reduceat(logits, np.arange(0, len(logits), _BLOCK))
    least = -np.inf if count > len(peaks) else np.partition(peaks, -count)[-count]
    found = np.flatnonzero(logits >= least)
    return found[np.lexsort((found, -logits[found]))][:count]
