"""What is checked of a call before anything native sees it; the same for every backend."""

from __future__ import annotations

from collections.abc import Sequence

from samovar.errors import ContextOverflow, InvalidRequest, InvalidToken
from samovar.native.interface import Row
from samovar.native.sequences import Sequences

_MAX_FLOAT = 3.4e38  # of 32 bits; a larger one would arrive as infinite
POOLINGS = ("mean", "cls", "last")


def check_pooling(pooling: str | None) -> None:
    """Raise InvalidRequest for what does not make one vector of many; None is the model's own."""
    if pooling is not None and pooling not in POOLINGS:
        raise InvalidRequest(f"pooling must be one of {', '.join(POOLINGS)}")


def check_tokens(tokens: Sequence[int], size: int) -> None:
    """Raise InvalidToken unless every id is in a vocabulary of `size`."""
    if not len(tokens) or (min(tokens) >= 0 and max(tokens) < size):
        return
    wrong = next(token for token in tokens if not 0 <= token < size)
    raise InvalidToken(f"token id {wrong} is outside the vocabulary; use ids from 0 to {size - 1}")


def check_room(held: int, count: int, seq_id: int, length: int) -> None:
    """Raise ContextOverflow unless `count` more tokens fit into a context of `length`."""
    if held + count > length:
        raise ContextOverflow(
            f"{held + count} tokens do not fit into the context of {length} (sequence {seq_id}"
            f" holds {held}); shorten the prompt or use a larger context"
        )


def check_rows(rows: Sequence[Row], sequences: Sequences, vocabulary_size: int, length: int) -> int:
    """Check the rows of a step; returns how many tokens they have together.

    Raises InvalidRequest for a sequence that is not there, is there twice or gets nothing,
    InvalidToken, and ContextOverflow.
    """
    seen: set[int] = set()
    total = 0
    for row in rows:
        seq_id, tokens = row.seq_id, row.tokens
        held, count = len(sequences[seq_id].tokens), len(tokens)
        if seq_id in seen:
            raise InvalidRequest(f"sequence {seq_id} is in the step twice; merge its rows")
        seen.add(seq_id)
        if not count:
            raise InvalidRequest(f"the row of sequence {seq_id} has no tokens")
        check_tokens(tokens, vocabulary_size)
        check_room(held, count, seq_id, length)
        total += count
    return total


def check_total(total: int, limit: int) -> None:
    """Raise InvalidRequest for a step of more tokens than one batch takes."""
    if total > limit:
        raise InvalidRequest(f"{total} tokens in a step, at most {limit} fit; split it")


def check_scale(scale: float) -> None:
    """Raise InvalidRequest unless an adapter's scale is a number that llama.cpp's floats can be."""
    if not abs(scale) <= _MAX_FLOAT:  # also refuses NaN
        raise InvalidRequest("the scale of an adapter must be a finite number")
