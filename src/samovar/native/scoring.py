"""Log-probabilities of the tokens that follow on those of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from samovar.errors import NativeError
from samovar.native import philox
from samovar.native.interface import Logprobs, Row, RowFailed, Sampled, Stepped

Results = tuple[Sampled | RowFailed | None, ...]


def scored(rows: Sequence[Row], results: Results, logits: Callable[[int], np.ndarray]) -> Stepped:
    """What came of rows that were computed, with the log-probabilities that they ask for.

    `logits` gives those behind a token, by its place among all tokens of the rows. Where they are
    no numbers, the row has failed.
    """
    if not any(row.following for row in rows):
        return Stepped(results)
    found, scores, first = list(results), [], 0
    for place, row in enumerate(rows):
        try:
            scores.append(_scores(row, first, logits))
        except NativeError as error:
            scores.append(())
            found[place] = RowFailed(error)
        first += len(row.tokens)
    return Stepped(tuple(found), tuple(scores))


def _scores(row: Row, first: int, logits: Callable[[int], np.ndarray]) -> tuple[Logprobs, ...]:
    return tuple(
        _score(logits(first + i), token, row.num_alternatives)
        for i, token in enumerate(row.following)
    )


def _score(logits: np.ndarray, token: int, count: int) -> Logprobs:
    if not np.isfinite(logits.max()):  # of a NaN, if there is one
        raise NativeError("the model produced logits that are no numbers")
    return philox.logprobs(logits, token, count)
