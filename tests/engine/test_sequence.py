"""The life of a sequence, and what two of them have in common."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.engine.output import Output
from samovar.engine.sequence import Clock, IllegalTransitionError, Phase, Sequence, common_prefix
from samovar.native.weightless import WeightlessSampler
from samovar.types import SamplingParams
from tests.conftest import scaled
from tests.engine.builders import request


class Closing(WeightlessSampler):
    """A sampler that counts how often it is closed."""

    def __init__(self) -> None:
        super().__init__(SamplingParams())
        self.num_closed = 0

    def close(self) -> None:
        self.num_closed += 1


def sequence(
    tokens: tuple[int, ...] = (1, 2, 3), *, order: int = 0, submitted: float = 0.0, **more: object
) -> Sequence:
    """A sequence that waits."""
    asked = request("a", tokens, **more)  # type: ignore[arg-type]
    return Sequence(
        asked, list(tokens), len(tokens), 100, Output(bytes), Clock(submitted), order=order
    )


def walked(*moves: str) -> Sequence:
    """A sequence after these moves."""
    one = sequence()
    for move in moves:
        MOVES[move](one)
    return one


MOVES: dict[str, Callable[[Sequence], None]] = {
    "admit": lambda one: one.admit(2, 1, now=5.0),
    "preempt": lambda one: one.preempt(),
    "finish": lambda one: one.finish(),
}

LEGAL = {
    (): {"admit", "finish"},
    ("admit",): {"preempt", "finish"},
    ("admit", "preempt"): {"admit", "finish"},
    ("admit", "preempt", "admit"): {"preempt", "finish"},
    ("finish",): set(),
    ("admit", "finish"): set(),
    ("admit", "preempt", "finish"): set(),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("before", LEGAL, ids=lambda moves: ",".join(moves) or "new")
def test_a_life_goes_only_where_it_may(before: tuple[str, ...], move: str) -> None:
    one = walked(*before)
    if move in LEGAL[before]:
        MOVES[move](one)
        return
    phase = one.phase
    with pytest.raises(IllegalTransitionError):
        MOVES[move](one)
    assert one.phase is phase


def test_a_seat_is_held_while_running_and_only_then() -> None:
    assert walked().seq_id is None
    assert walked("admit").seq_id == 2
    assert walked("admit", "preempt").seq_id is None
    assert walked("admit", "finish").seq_id is None


def test_preemption_forgets_what_was_computed_and_keeps_the_tokens() -> None:
    one = walked("admit")
    one.append(9, now=6.0)
    one.must_end_at = 2
    one.preempt()
    assert (one.num_computed, one.must_end_at, one.num_preemptions) == (0, None, 1)
    assert one.tokens == [1, 2, 3, 9]
    assert one.num_remaining == 4


def test_what_was_live_is_what_lay_there_when_it_was_first_admitted() -> None:
    one = sequence()
    one.admit(0, 2, now=5.0)
    one.preempt()
    one.admit(1, 0, now=9.0)
    assert one.num_live == 2
    assert one.clock.admitted == 5.0


def test_more_cannot_be_computed_than_is_known() -> None:
    one = walked("admit")
    one.advance(2)
    assert one.num_remaining == 0
    with pytest.raises(IllegalTransitionError):
        one.advance(1)


def test_the_first_token_and_the_last_are_timed() -> None:
    one = walked("admit")
    for now in (6.0, 7.0, 9.0):
        one.append(4, now)
    assert (one.clock.first_token, one.clock.last_token) == (6.0, 9.0)
    assert one.num_generated == 3


def test_the_sampler_is_closed_once_with_the_end() -> None:
    one = sequence()
    one.sampler = sampler = Closing()
    one.admit(0, 0, now=1.0)
    one.preempt()
    assert not sampler.num_closed
    one.finish()
    with pytest.raises(IllegalTransitionError):
        one.finish()
    assert sampler.num_closed == 1
    assert one.phase is Phase.FINISHED


# ---- what two have in common --------------------------------------------------------------------


def naive(a: list[int], b: list[int]) -> int:
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


few = st.lists(st.integers(0, 1), max_size=40)


@settings(max_examples=scaled(300, 20_000), database=None, deadline=None)
@given(few, few, few)
def test_the_common_prefix_is_the_naive_one(shared: list[int], a: list[int], b: list[int]) -> None:
    left, right = shared + a, shared + b
    assert common_prefix(left, right) == naive(left, right)
    assert common_prefix(left, right) == common_prefix(right, left)


def test_the_common_prefix_of_long_lists_ends_where_they_part() -> None:
    whole = list(range(10_000))
    for at in (0, 1, 4999, 5000, 9998, 9999):
        other = whole.copy()
        other[at] = -1
        assert common_prefix(whole, other) == at
    assert common_prefix(whole, whole.copy()) == len(whole)
    assert common_prefix(whole, whole[:77]) == 77
