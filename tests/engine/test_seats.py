"""Where a newcomer is put, by what lies in the seats."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.engine.cells import CellLedger
from samovar.engine.seats import LEAST_COPY, LEAST_LOSS, Cuts, Left, Placement, Seats
from samovar.engine.sequence import Adapters
from tests.conftest import scaled
from tests.engine.test_sequence import naive, sequence

LONG = tuple(range(100))
PROMPT = (*LONG, 200, 201)
SHORT = LONG[: LEAST_COPY - 1]
OTHER = tuple(range(100, 220))
X: Adapters = (("x", 1.0),)


@dataclass(frozen=True)
class Lies:
    """What a seat holds: idle unless it runs or belongs to a session."""

    tokens: tuple[int, ...] = ()
    session: str | None = None
    runs: bool = False
    adapters: Adapters = ()


EMPTY = Lies()


def seats(*found: Lies, cuts: Cuts | None = None, is_pool: bool = False) -> Seats:
    """Seats in this state; those further right were used later."""
    ledger = CellLedger(10_000, len(found)) if is_pool else None
    made = Seats(len(found), cuts or Cuts(is_divisible=True), ledger)
    for seq_id, lies in enumerate(found):
        seat = made[seq_id]
        if lies.runs:
            holder = sequence((*lies.tokens, 255), adapters=lies.adapters, session=lies.session)
            holder.admit(seq_id, len(lies.tokens), now=0.0)
            made.take(Placement(holder, seq_id))
        elif lies.tokens:
            seat.fill(Left(list(lies.tokens), len(lies.tokens), lies.adapters, ""))
            seat.session = lies.session
            made.touch(seat)
        if ledger is not None:
            ledger.grow(seq_id, len(lies.tokens))
    return made


def place(made: Seats, prompt: tuple[int, ...] = PROMPT, **more: object) -> tuple | None:
    """(seat, source, length) of a newcomer."""
    found = made.place(sequence(prompt, **more))
    return None if found is None else (found.seq_id, found.source, found.length)


CASES = {
    "into the lowest empty seat": ((Lies(OTHER), EMPTY, EMPTY), (1, None, 0)),
    "over the longest unused when none is empty": ((Lies(OTHER), Lies(OTHER[1:])), (0, None, 0)),
    "to an idle prefix, and goes on there": ((EMPTY, Lies(LONG), EMPTY), (1, 1, 100)),
    "to the longer one of two idle prefixes": ((Lies(LONG[:50]), Lies(LONG)), (1, 1, 100)),
    "to the lower one of two alike": ((EMPTY, Lies(LONG), Lies(LONG)), (1, 1, 100)),
    "beside a running one with a copy of its prefix": ((Lies(LONG, runs=True), EMPTY), (1, 0, 100)),
    "beside a running one whose prefix is too short to copy": (
        (Lies(SHORT, runs=True), EMPTY),
        (1, None, 0),
    ),
    "to a short idle prefix, which costs nothing": ((Lies(SHORT), EMPTY), (0, 0, len(SHORT))),
    "beside a session with a copy of its prefix": ((Lies(LONG, session="s"), EMPTY), (1, 0, 100)),
    "beside a long idle one rather than to cut it to a short prefix": (
        (Lies((*LONG[:40], *OTHER)), EMPTY),
        (1, 0, 40),
    ),
    "to an idle one that loses little": (
        (Lies((*LONG, *OTHER[: LEAST_LOSS - 1])), EMPTY),
        (0, 0, 100),
    ),
    "nowhere near what other adapters computed": ((Lies(LONG, adapters=X), EMPTY), (1, None, 0)),
    "nowhere when everybody runs": ((Lies(OTHER, runs=True), Lies(LONG, runs=True)), None),
    "nowhere when all is kept for sessions": ((Lies(LONG, "s"), Lies(OTHER, runs=True)), None),
    "with all but the last token of the same prompt": ((Lies(PROMPT),), (0, 0, len(PROMPT) - 1)),
}


@pytest.mark.parametrize("layout", ["lanes", "pool"])
@pytest.mark.parametrize("case", CASES)
def test_a_newcomer_goes(case: str, layout: str) -> None:
    found, expected = CASES[case]
    assert place(seats(*found, is_pool=layout == "pool")) == expected


def test_a_session_goes_back_to_its_own_cells() -> None:
    made = seats(Lies(LONG), Lies(LONG[:20], session="s"), EMPTY)
    assert place(made, session="s") == (1, 1, 20)
    assert place(made, OTHER, session="s") == (1, None, 0)


def test_a_session_that_runs_has_no_seat_for_another_request() -> None:
    made = seats(Lies(LONG, session="s", runs=True), EMPTY)
    assert place(made, session="s") is None


def test_what_cannot_be_cut_is_taken_whole_or_not_at_all() -> None:
    whole = Cuts(is_divisible=False)
    assert place(seats(Lies(LONG), EMPTY, cuts=whole)) == (0, 0, 100)
    assert place(seats(Lies((*LONG, 7)), EMPTY, cuts=whole)) == (1, None, 0)
    assert place(seats(Lies(PROMPT), EMPTY, cuts=whole)) == (1, None, 0)


def test_on_a_grid_only_whole_chunks_of_prompts_are_taken() -> None:
    grid = Cuts(is_divisible=True, grid=16)
    assert place(seats(Lies(LONG), cuts=grid)) == (0, 0, 96)
    made = seats(EMPTY, cuts=grid)
    made[0].fill(Left(list(LONG), 50, (), ""))  # the rest was generated, or computed token by token
    assert place(made) == (0, 0, 48)


# ---- what can be taken over ---------------------------------------------------------------------

few = st.lists(st.integers(0, 1), max_size=30)


@settings(max_examples=scaled(300, 10_000), database=None, deadline=None)
@given(few, few, few, st.data())
def test_what_is_usable_is_a_common_prefix_that_leaves_a_token(
    shared: list[int], a: list[int], b: list[int], data: st.DataObject
) -> None:
    known, tokens = shared + a, [*shared, *b, 1]
    held = data.draw(st.integers(0, len(known)))
    grid, regular = data.draw(st.sampled_from([1, 4])), data.draw(st.integers(0, held))
    common = min(naive(known[:held], tokens), len(tokens) - 1)
    if grid > 1:
        common = min(common, regular) // grid * grid
    for is_divisible in (True, False):
        cuts = Cuts(is_divisible, grid)
        expected = common if is_divisible or common == held else 0
        assert cuts.usable(known, held, regular, tokens) == expected


# ---- getting up ---------------------------------------------------------------------------------


def test_idle_seats_are_given_up_longest_unused_first_and_sessions_last() -> None:
    made = seats(Lies(LONG, session="s"), Lies(OTHER), Lies(LONG, runs=True), Lies(SHORT))
    made.touch(made[1])
    assert [seat.seq_id for seat in made.idle()] == [3, 1, 0]


def test_a_seat_that_is_given_up_is_told_to_whoever_removes_the_cells() -> None:
    made = seats(Lies(LONG, session="s"), Lies(OTHER), is_pool=True)
    made.empty(made[0])
    assert made.emptied == [0]
    assert made.of_session("s") is None
    assert made.ledger is not None
    assert made.ledger.num_used == len(OTHER)
    assert place(made) == (0, None, 0)


def test_who_leaves_leaves_what_was_computed_or_nothing() -> None:
    made = seats(Lies(LONG, runs=True), Lies(LONG, runs=True))
    made[0].leave(keep=True)
    made[1].leave(keep=False)
    assert made[0].tokens == list(LONG)
    assert made[1].tokens == []
    assert place(made) == (0, 0, 100)
