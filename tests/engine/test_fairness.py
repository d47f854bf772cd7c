"""The waiting line and the counters of tenants."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.engine.fairness import SECONDS_PER_PRIORITY, Tenants, WaitingLine
from samovar.engine.sequence import Sequence
from tests.conftest import scaled
from tests.engine.test_sequence import sequence


def line(*sequences: Sequence, tenants: Tenants | None = None) -> WaitingLine:
    made = WaitingLine(tenants or Tenants())
    for one in sequences:
        made.add(one)
    return made


def test_within_a_tenant_the_oldest_is_next() -> None:
    a, b, c = (sequence(order=order) for order in (3, 1, 2))
    assert line(a, b, c).in_order(0.0) == [b, c, a]


def test_the_tenant_that_was_served_least_is_next() -> None:
    tenants = Tenants()
    much, little = sequence(order=1, tenant="much"), sequence(order=2, tenant="little")
    for one in (much, little):
        tenants.enter(one.request.tenant)
    tenants.charge("much", 10.0)
    assert line(much, little, tenants=tenants).in_order(0.0) == [little, much]


def test_a_higher_priority_is_next_whoever_was_served_less() -> None:
    tenants = Tenants()
    tenants.charge("t", 1000.0)
    high = sequence(order=2, tenant="t", priority=1)
    low = sequence(order=1, tenant="u")
    assert line(low, high, tenants=tenants).in_order(0.0) == [high, low]


def test_waiting_raises_the_priority_by_one_every_so_often() -> None:
    patient = sequence(order=1)
    urgent = sequence(order=2, priority=2, submitted=2 * SECONDS_PER_PRIORITY)
    waiting = line(patient, urgent)
    assert waiting.in_order(2 * SECONDS_PER_PRIORITY - 1) == [urgent, patient]
    assert waiting.in_order(2 * SECONDS_PER_PRIORITY) == [patient, urgent]


def test_a_clock_that_steps_back_lowers_nobody() -> None:
    a, b = sequence(order=1, submitted=100.0), sequence(order=2, priority=-1, submitted=100.0)
    assert line(a, b).in_order(0.0) == [a, b]


def test_who_is_removed_waits_no_longer() -> None:
    a, b = sequence(order=1), sequence(order=2)
    waiting = line(a, b)
    waiting.remove(a)
    assert a not in waiting
    assert b in waiting
    assert list(waiting) == [b]
    assert len(waiting) == 1


# ---- counters -----------------------------------------------------------------------------------


def test_who_comes_back_starts_at_the_level_of_those_who_stayed() -> None:
    tenants = Tenants()
    tenants.enter("stays")
    tenants.enter("goes")
    tenants.charge("goes", 5.0)
    tenants.charge("stays", 7.0)
    tenants.leave("goes")
    tenants.charge("stays", 100.0)
    tenants.enter("goes")
    assert tenants.served("goes") == tenants.served("stays")


def test_leaving_and_coming_back_wipes_no_debt() -> None:
    tenants = Tenants()
    tenants.enter("stays")
    tenants.enter("goes")
    tenants.charge("goes", 50.0)
    tenants.leave("goes")
    tenants.enter("goes")
    assert tenants.served("goes") == 50.0
    assert tenants.served("stays") == 0.0


@settings(max_examples=scaled(100, 3000), database=None, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["enter", "leave", "charge"]),
            st.sampled_from("abcd"),
            st.integers(1, 50),
        ),
        max_size=60,
    )
)
def test_counters_are_those_of_a_model_that_forgets_nothing(
    operations: list[tuple[str, str, int]],
) -> None:
    """Whoever is active has the counter that remembering everybody would give."""
    tenants, served, active = Tenants(), dict.fromkeys("abcd", 0.0), dict.fromkeys("abcd", 0)
    for what, who, cost in operations:
        if what == "enter":
            if not active[who]:
                level = min((served[t] for t in active if active[t]), default=0.0)
                served[who] = max(served[who], level)
            active[who] += 1
            tenants.enter(who)
        elif active[who] and what == "leave":
            active[who] -= 1
            tenants.leave(who)
            if not any(active.values()):
                served = dict.fromkeys("abcd", 0.0)  # nobody is left to be compared with
        elif active[who]:
            served[who] += cost
            tenants.charge(who, cost)
        for name in active:
            if active[name]:
                assert tenants.served(name) == served[name]
