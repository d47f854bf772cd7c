"""What the tiers give back when something is short: watermarks, hysteresis, stalls."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.cache.index.node import Tier
from samovar.cache.machine.gauge import Reading, Resource
from samovar.cache.machine.pressure import (
    DEFAULT_MARKS,
    STALLED_PERCENT,
    Advice,
    Pressure,
    Sample,
    Stall,
    Watermarks,
    advise,
)
from tests.conftest import scaled

GIB = 2**30

# --- watermarks ---


def test_shares_of_large_totals_are_not_kept_free() -> None:
    marks = Watermarks(high=0.9, low=0.8, most_free=8 * GIB)
    assert marks.begins_below(10 * GIB) == pytest.approx(GIB)
    assert marks.ends_at(10 * GIB) == pytest.approx(2 * GIB)
    assert marks.begins_below(1024 * GIB) == pytest.approx(4 * GIB)
    assert marks.ends_at(1024 * GIB) == 8 * GIB


@given(st.integers(0, 2**62), st.sampled_from(list(Resource)))
def test_shrinking_begins_where_it_has_not_ended(total: int, resource: Resource) -> None:
    marks = DEFAULT_MARKS[resource]
    assert 0 <= marks.begins_below(total) <= marks.ends_at(total) <= max(total, 0)


@pytest.mark.parametrize(
    ("high", "low", "most"),
    [(0.8, 0.8, 1), (0.8, 0.9, 1), (1.0, 0.5, 1), (0.5, 0, 1), (0.9, 0.8, 0)],
)
def test_watermarks_that_make_no_sense_are_refused(high: float, low: float, most: int) -> None:
    with pytest.raises(ValueError, match="low < high"):
        Watermarks(high, low, most)


# --- advice ---

MARKS = dict.fromkeys(Resource, Watermarks(high=0.9, low=0.8, most_free=2**62))


def of(resource: Resource, free: int, total: int = 1000) -> Reading:
    return Reading(f"{resource.value} of {total}", resource, free, total)


def memory(free: int, total: int = 1000) -> Reading:
    return of(Resource.MEMORY, free, total)


def told(*readings: Reading, memory: int = 0, shm: int = 0, disk: int = 0) -> dict[Tier, int]:
    used = {Tier.MEMORY: memory, Tier.SHM: shm, Tier.DISK: disk}
    return dict(advise(Sample(readings), used, MARKS).targets)


def test_between_the_marks_nothing_is_advised() -> None:
    readings = [of(resource, 100) for resource in Resource]
    assert told(*readings, memory=500, shm=500, disk=500) == {}


def test_above_the_high_mark_the_memory_tier_shrinks_to_the_low_one() -> None:
    assert told(memory(99), memory=500) == {Tier.MEMORY: 399, Tier.SHM: 0}


def test_shm_gives_what_memory_does_not_have_and_may_not_grow_meanwhile() -> None:
    assert told(memory(50), memory=500, shm=300) == {Tier.MEMORY: 350, Tier.SHM: 300}
    assert told(memory(50), memory=100, shm=300) == {Tier.MEMORY: 0, Tier.SHM: 250}
    assert told(memory(0), memory=10, shm=20) == {Tier.MEMORY: 0, Tier.SHM: 0}


def test_a_full_file_system_is_its_tiers_alone() -> None:
    shm, disk = of(Resource.SHM, 0), of(Resource.DISK, 60)
    assert told(shm, memory=500, shm=500, disk=500) == {Tier.SHM: 300}
    assert told(disk, memory=500, shm=500, disk=500) == {Tier.DISK: 360}
    assert told(disk, disk=100) == {Tier.DISK: 0}


def test_where_memory_and_its_tmpfs_are_short_the_larger_need_counts() -> None:
    shm = of(Resource.SHM, 50)
    assert told(memory(50), shm, memory=500, shm=500) == {Tier.MEMORY: 350, Tier.SHM: 350}
    assert told(memory(0), shm, memory=20, shm=500) == {Tier.MEMORY: 0, Tier.SHM: 320}


def test_of_several_accounts_the_largest_need_counts() -> None:
    inner, outer = memory(20, 1000), memory(900, 10_000)
    assert told(inner, memory=5000)[Tier.MEMORY] == 5000 - 180
    for accounts in ((inner, outer), (outer, inner)):
        assert told(*accounts, memory=5000)[Tier.MEMORY] == 5000 - 1100


def test_tiers_that_are_not_there_get_no_advice() -> None:
    advice = advise(Sample((memory(0), of(Resource.DISK, 0))), {Tier.SHM: 50}, MARKS)
    assert advice.targets == {Tier.SHM: 0}
    assert len(advice.short) == 2


def test_what_has_begun_goes_on_until_the_low_mark(tmp_path: Path) -> None:
    pressure = Pressure(marks=MARKS, root=tmp_path)
    used = {Tier.MEMORY: 500}

    def target(free: int) -> int | None:
        return pressure.advice(Sample((memory(free),)), used).targets.get(Tier.MEMORY)

    assert [target(free) for free in (150, 99, 150, 199, 200, 150, 100, 99)] == [
        None,
        399,
        450,
        499,
        None,
        None,
        None,
        399,
    ]


def test_an_account_that_vanishes_is_forgotten(tmp_path: Path) -> None:
    pressure = Pressure(marks=MARKS, root=tmp_path)
    used = {Tier.MEMORY: 500}
    assert pressure.advice(Sample((memory(50),)), used).short
    assert pressure.advice(Sample(()), used) == Advice()
    assert not pressure.advice(Sample((memory(150),)), used).short


# --- when memory is nearly gone ---


def stalled(total: int, percent: float = 25.0, *, is_own: bool = True) -> Stall:
    return Stall(percent, total, is_own)


def test_while_processes_wait_the_memory_tier_halves_each_time(tmp_path: Path) -> None:
    pressure = Pressure(marks=MARKS, root=tmp_path)
    left = 1000
    for moment in range(11):
        used = {Tier.MEMORY: left, Tier.SHM: 70, Tier.DISK: 70}
        advice = pressure.advice(Sample((memory(500),), stalled(moment)), used)
        assert advice.is_urgent
        assert advice.targets == {Tier.MEMORY: max(0, left - left // 2 - 1), Tier.SHM: 70}
        left = advice.targets[Tier.MEMORY]
    assert left == 0


def test_waiting_that_is_over_asks_for_nothing_though_its_average_is_high(tmp_path: Path) -> None:
    pressure = Pressure(marks=MARKS, root=tmp_path)
    used = {Tier.MEMORY: 1000}
    urgent = [
        pressure.advice(Sample((), stalled(total)), used).is_urgent for total in (5, 6, 6, 6, 7)
    ]
    assert urgent == [True, True, False, False, True]


def test_a_little_waiting_is_nothing(tmp_path: Path) -> None:
    for percent, is_urgent in ((STALLED_PERCENT - 0.01, False), (STALLED_PERCENT, True)):
        pressure = Pressure(root=tmp_path)
        assert pressure.advice(Sample((), stalled(1, percent)), {}).is_urgent == is_urgent


def test_a_shortage_while_processes_wait_takes_the_larger_of_both() -> None:
    for free, expected in ((50, 249), (0, 249)):
        sample = Sample((memory(free),), stalled(1))
        advice = advise(sample, {Tier.MEMORY: 500}, MARKS, is_waiting=True)
        assert advice.targets == {Tier.MEMORY: expected}
    sample = Sample((memory(0),), stalled(1))
    used = {Tier.MEMORY: 210, Tier.SHM: 50}
    advice = advise(sample, used, MARKS, is_waiting=True)
    assert advice.targets == {Tier.MEMORY: 10, Tier.SHM: 50}


def test_the_waiting_of_others_counts_only_where_memory_is_short_here() -> None:
    others = stalled(1, is_own=False)
    used = {Tier.MEMORY: 500}
    assert not advise(Sample((memory(500),), others), used, MARKS, is_waiting=True).targets
    short = advise(Sample((memory(90),), others), used, MARKS, is_waiting=True)
    assert short.is_urgent
    assert short.targets == {Tier.MEMORY: 249}


# --- whatever is told ---

readings = st.builds(
    Reading,
    st.sampled_from("abcdef"),
    st.sampled_from(list(Resource)),
    st.integers(-10, 2**40),
    st.integers(0, 2**40),
)
stalls = st.one_of(st.none(), st.builds(Stall, st.floats(0, 100), st.integers(0, 3), st.booleans()))
holdings = st.dictionaries(st.sampled_from(list(Tier)), st.integers(0, 2**41))


def test_a_tier_may_grow_only_as_far_as_it_makes_nothing_short() -> None:
    used = {Tier.MEMORY: 100, Tier.SHM: 10, Tier.DISK: 5}
    readings = (memory(450), memory(300, 1001), of(Resource.DISK, 990))
    advice = advise(Sample(readings), used, MARKS)
    assert not advice.targets
    above = 300 - MARKS[Resource.MEMORY].ends_at(1001)
    disk = 990 - MARKS[Resource.DISK].ends_at(1000)
    assert advice.rooms == {
        Tier.MEMORY: 100 + above,
        Tier.SHM: 10 + above,
        Tier.DISK: 5 + disk,
    }
    grown = advise(Sample((memory(450 - above), memory(300 - above, 1001))), used, MARKS)
    assert not grown.short, "what it was allowed to take is not taken back"
    assert grown.rooms[Tier.MEMORY] == used[Tier.MEMORY]
    assert not advise(Sample(()), used, MARKS).rooms


@settings(max_examples=scaled(300, 20_000), database=None, deadline=None)
@given(st.lists(st.tuples(st.lists(readings, max_size=5), stalls, holdings), max_size=5))
def test_targets_lie_between_nothing_and_what_a_tier_has(
    rounds: list[tuple[list[Reading], Stall | None, dict[Tier, int]]],
) -> None:
    pressure = Pressure(root=Path("/nonexistent"))
    for told_now, waiting, used in rounds:
        advice = pressure.advice(Sample(tuple(told_now), waiting), used)
        assert all(0 <= target <= used[tier] for tier, target in advice.targets.items())
        short = {reading.resource for reading in advice.short}
        assert (Tier.DISK in advice.targets) == (Resource.DISK in short and Tier.DISK in used)
        assert bool(advice.targets) <= (bool(short) or advice.is_urgent)


@settings(max_examples=scaled(200, 10_000), database=None, deadline=None)
@given(
    st.integers(10, 1000),
    st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 300)), min_size=1, max_size=20),
    st.sampled_from([(Tier.MEMORY,), (Tier.MEMORY, Tier.SHM)]),
)
def test_tiers_that_follow_leave_the_low_mark_free_or_are_empty(
    total: int, changes: list[tuple[int, int]], tiers: tuple[Tier, ...]
) -> None:
    """Others take and leave memory, the tiers grow, then do as they are told."""
    marks = MARKS[Resource.MEMORY]
    pressure = Pressure(marks=MARKS, root=Path("/nonexistent"))
    held = dict.fromkeys(tiers, 0)
    for others, growth in changes:
        for tier in tiers:
            held[tier] += max(0, min(growth, total - others - sum(held.values())))
        rounds = 0
        before = left = total - others - sum(held.values())
        while (advice := pressure.advice(Sample((memory(max(0, left), total),)), held)).short:
            assert left < marks.ends_at(total)
            if not any(held.values()):
                break
            held.update(advice.targets)
            left = total - others - sum(held.values())
            rounds += 1
        if before < marks.begins_below(total):
            assert left >= marks.ends_at(total) or not any(held.values())
        # How far others are above what there is cannot be seen: it takes more than one round.
        assert rounds <= 1 or before < 0
