"""What blocks are worth: hits that fade, and an order that does not depend on the time."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from samovar.cache.index import policy
from tests.conftest import scaled

EXAMPLES = settings(max_examples=scaled(200, 20_000), database=None, deadline=None)
TIMES = st.floats(0, 1e6)
HITS = st.lists(st.tuples(TIMES, st.floats(0.1, 8)), max_size=8)
EPOCH = 1.8e9  # a clock that counts from 1970


def level(hits: list[tuple[float, float]], start: float = 0.0) -> float:
    found = policy.COLD
    for when, weight in hits:
        found = policy.hit(found, start + when, weight)
    return found


@EXAMPLES
@given(HITS, TIMES)
def test_the_heat_is_the_sum_of_the_hits_each_halved_with_every_half_life(
    hits: list[tuple[float, float]], now: float
) -> None:
    expected = sum(weight * 2 ** ((when - now) / policy.HALF_LIFE) for when, weight in hits)
    assert policy.heat_at(level(hits), now) == pytest.approx(expected, rel=1e-9)
    late = policy.heat_at(level(hits, EPOCH), EPOCH + now)
    assert late == pytest.approx(expected, rel=1e-6)


@EXAMPLES
@given(HITS, HITS, TIMES, TIMES, st.floats(-20, 20), st.floats(-20, 20))
def test_time_does_not_change_which_is_worth_more(
    first: list[tuple[float, float]],
    second: list[tuple[float, float]],
    now: float,
    later: float,
    density: float,
    other_density: float,
) -> None:
    def ratio(when: float) -> float:
        one = policy.heat_at(level(first), when) * 2**density
        other = policy.heat_at(level(second), when) * 2**other_density
        return one / other if other else math.inf

    assert ratio(now) == pytest.approx(ratio(later), rel=1e-6)
    ranks = level(first) + density, level(second) + other_density
    if not math.isclose(ratio(now), 1.0, rel_tol=1e-6) and first and second:
        assert (ranks[0] > ranks[1]) == (ratio(now) > 1)


@EXAMPLES
@given(HITS)
def test_the_order_of_hits_does_not_matter(hits: list[tuple[float, float]]) -> None:
    backwards = level(list(reversed(hits)))
    assert policy.heat_at(backwards, 0.0) == pytest.approx(policy.heat_at(level(hits), 0.0))


@EXAMPLES
@given(st.floats(1e-6, 1e6), TIMES, TIMES)
def test_a_heat_that_was_written_down_is_the_same_when_it_is_read(
    heat: float, when: float, now: float
) -> None:
    found = policy.level_of(heat, EPOCH + when)
    assert policy.heat_at(found, EPOCH + when) == pytest.approx(heat, rel=1e-6)
    faded = heat * 2 ** ((when - now) / policy.HALF_LIFE)
    assert policy.heat_at(found, EPOCH + now) == pytest.approx(faded, rel=1e-6)


@EXAMPLES
@given(st.floats(), st.floats())
def test_numbers_that_are_no_heat_are_cold_and_none_overflows(heat: float, when: float) -> None:
    found = policy.level_of(heat, when)
    assert not math.isnan(found)
    if not (math.isfinite(when) and 0 < heat < math.inf):
        assert found == policy.COLD
    for now in (0.0, EPOCH):
        assert math.isfinite(policy.heat_at(min(found, 1e300), now))


def test_a_block_that_was_never_hit_is_worth_nothing() -> None:
    assert policy.heat_at(policy.COLD, EPOCH) == 0.0
    assert policy.hit(policy.COLD, 5.0, half_life=10.0) == 0.5


@EXAMPLES
@given(st.floats(0, 1e9), st.integers(0, 1 << 40))
def test_density_is_seconds_over_bytes(seconds: float, nbytes: int) -> None:
    found = policy.density(seconds, nbytes)
    assert math.isfinite(found)
    if seconds > 1e-6 and nbytes:
        assert 2**found == pytest.approx(seconds / nbytes)


def test_a_hit_counts_more_the_more_ways_lead_on() -> None:
    weights = [policy.hit_weight(children) for children in (0, 1, 2, 3, 50)]
    assert weights[:3] == [1.0, 1.0, 2.0]
    assert weights == sorted(weights)
