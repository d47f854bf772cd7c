"""What steps cost, and how much prefill that leaves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.engine.latency import (
    DECODE_STEPS,
    FIRST_CHUNK,
    LEAST_CHUNK,
    LEAST_GAP_SECONDS,
    StepCosts,
)
from tests.conftest import scaled


def measured(decode: float, prefill: float, rows: int = 1, times: int = 30) -> StepCosts:
    """Costs after many steps of these prices: of a decode step, and of a token of prefill."""
    costs = StepCosts()
    for _ in range(times):
        costs.observe(rows, 0, decode)
        costs.observe(rows, 100, decode + 100 * prefill)
    return costs


def test_without_decoding_a_chunk_is_as_large_as_can_be() -> None:
    assert StepCosts().prefill_budget(0, 512, 0) == 512
    assert measured(1.0, 1.0).prefill_budget(0, 512, 3) == 512


def test_the_first_chunk_beside_others_is_a_small_one() -> None:
    assert StepCosts().prefill_budget(2, 512, 2) == FIRST_CHUNK
    assert StepCosts().prefill_budget(2, 16, 2) == 16


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
@pytest.mark.parametrize(("decode", "prefill"), [(0.002, 0.0005), (0.05, 0.002), (0.3, 0.01)])
def test_a_step_of_the_whole_budget_keeps_the_promise(
    decode: float, prefill: float, rows: int
) -> None:
    costs = measured(decode, prefill, rows)
    budget = costs.prefill_budget(rows, 10**6, rows)
    gap = max(LEAST_GAP_SECONDS, DECODE_STEPS * decode)
    assert gap / 2 < decode + budget * prefill <= gap
    assert costs.gap(rows) == pytest.approx(gap)


def test_those_who_take_turns_share_what_the_promise_leaves() -> None:
    costs = measured(0.002, 0.0005)
    alone = costs.prefill_budget(1, 10**6, 1)
    assert costs.prefill_budget(1, 10**6, 1, turns=2) <= alone / 2
    assert costs.prefill_budget(1, 10**6, 0, turns=2) * 0.0005 <= LEAST_GAP_SECONDS / 2


def test_a_prompt_gets_on_however_slow_the_machine_is() -> None:
    assert measured(10.0, 10.0).prefill_budget(4, 512, 4) == LEAST_CHUNK


def test_the_price_of_another_number_of_rows_is_that_of_the_nearest_known() -> None:
    costs = StepCosts()
    assert costs.decode(3) == 0.0
    costs.observe(1, 0, 0.1)
    costs.observe(8, 0, 0.4)
    assert [costs.decode(rows) for rows in (0, 1, 2, 7, 8, 64)] == [0.0, 0.1, 0.1, 0.4, 0.4, 0.4]


def test_a_higher_price_is_believed_sooner_than_a_lower_one() -> None:
    up, down = StepCosts(), StepCosts()
    for costs, before, after in ((up, 0.1, 0.2), (down, 0.2, 0.1)):
        costs.observe(1, 0, before)
        costs.observe(1, 0, after)
    assert abs(up.decode(1) - 0.2) < abs(down.decode(1) - 0.1)


def test_estimates_know_what_was_measured() -> None:
    costs = measured(0.1, 0.01, rows=4)
    assert costs.seconds_of(100, 40, 4) == pytest.approx(100 * 0.01 + 40 * 0.1 / 4, rel=0.01)
    assert StepCosts().seconds_of(100, 40, 4) == 0.0


def test_steps_that_cost_nothing_beside_slow_ones_leave_room_for_a_few_tokens() -> None:
    costs = StepCosts()
    costs.observe(0, 1, 0.0)
    costs.observe(1, 0, 1.0)
    costs.shares = 3
    assert 1 <= costs.prefill_budget(1, 600, 1) <= 600
    assert costs.prefill_budget(1, 2, 1) == 2


seconds = st.one_of(st.just(0.0), st.floats(0.0, 100.0))


@settings(max_examples=scaled(200, 5000), database=None, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 600), seconds), max_size=20),
    st.integers(0, 9),
    st.integers(1, 600),
    st.integers(1, 4),
)
def test_whatever_was_measured_the_budget_is_a_number_of_tokens(
    steps: list[tuple[int, int, float]], rows: int, largest: int, turns: int
) -> None:
    costs = StepCosts()
    for decode_rows, tokens, took in steps:
        if decode_rows or tokens:
            costs.observe(decode_rows, tokens, took)
    budget = costs.prefill_budget(rows, largest, rows, turns)
    assert 1 <= budget <= largest
    assert math.isfinite(costs.seconds_of(100, 100, rows))
