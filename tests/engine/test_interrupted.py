"""Decode calls that fail again and again: the engine gets smaller, or says so, and never hangs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from samovar.engine.engine import EngineOptions
from samovar.errors import InvalidRequest, NativeError
from samovar.native.interface import Aborted, NoRoom, Row, StateKind, Stepped
from samovar.native.weightless import WeightlessBackend
from samovar.types import Failed
from tests.engine.builders import KINDS, MODES, Model, Trial, expected, request
from tests.engine.scenarios import BLOCKS, Shape

BOTH = pytest.mark.parametrize("mode", MODES)


def overrule(trial: Trial, judge: object) -> None:
    """Let every decode call end as `judge` says of its rows, unless that is None."""
    compute = trial.backend.step

    def step(rows: Sequence[Row]) -> Stepped | NoRoom | Aborted:
        outcome = judge(rows)  # type: ignore[operator]
        if outcome is not None:
            trial.backend.fail_next(outcome)
        return compute(rows)

    trial.backend.step = step  # type: ignore[method-assign]


def too_many(most: int) -> object:
    """Calls of more tokens than `most` take too long."""
    return lambda rows: (
        Aborted(timed_out=True) if sum(len(row.tokens) for row in rows) > most else None
    )


@pytest.mark.parametrize("most", [1, 3, 20])
@pytest.mark.parametrize("length", [10, 40, 100])
def test_prompts_shrink_to_what_the_deadline_of_a_call_allows(length: int, most: int) -> None:
    trial = Trial(WeightlessBackend(num_sequences=1))
    overrule(trial, too_many(most))
    asked = request("a", range(length), max_tokens=3)
    trial.submit(asked)
    trial.finish(most=400)
    assert trial.answers["a"].said() == expected(asked, Model())


def test_a_prompt_grows_again_after_one_slow_call() -> None:
    trial = Trial(WeightlessBackend(num_sequences=1, context_length=1024, batch_size=64))
    trial.faults.extend(["late"] * 6)
    trial.submit(request("a", range(250), max_tokens=1))
    trial.submit(request("b", [*range(1, 251), *range(250)], max_tokens=1))
    trial.finish(most=60)


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_a_machine_too_slow_for_one_token_fails_the_requests_and_no_more(
    kind: StateKind, mode: str
) -> None:
    trial = Shape(kind, is_deterministic=mode == "deterministic").trial()
    asked = [request(f"r{i}", BLOCKS[i]) for i in range(3)]
    trial.submit(*asked)
    trial.step(4)
    overrule(trial, lambda rows: Aborted(timed_out=True, lost=tuple(r.seq_id for r in rows)))
    trial.finish(most=200)
    for answer in trial.answers.values():
        assert answer.failed.code == "decode_timeout"
        assert answer.failed.retryable


@BOTH
def test_a_chunk_that_is_too_slow_for_the_deadline_does_not_hang(mode: str) -> None:
    trial = Trial(options=EngineOptions(is_deterministic=mode == "deterministic"))
    overrule(trial, too_many(8))
    asked = request("a", range(100), max_tokens=3)
    trial.submit(asked)
    trial.finish(most=400)
    if mode == "adaptive":
        assert trial.answers["a"].said() == expected(asked, Model())
    else:  # smaller chunks would give other bits than were promised
        assert trial.answers["a"].failed.code == "decode_timeout"


def test_an_error_of_one_row_fails_its_request_alone() -> None:
    shape = Shape(end_bias=-100.0)
    asked = [request(f"r{i}", BLOCKS[i] + BLOCKS[2]) for i in range(3)]
    trial = shape.trial()
    bad = asked[1].prompt[0]
    overrule(
        trial,
        lambda rows: (
            NativeError("it was made to")
            if any(trial.backend.tokens(r.seq_id)[:1] == [bad] for r in rows)
            else None
        ),
    )
    answers = trial.serve(*asked)
    assert answers[1].failed.code == "native_error"
    assert not answers[1].failed.retryable
    for index in (0, 2):
        assert answers[index].said() == expected(asked[index], shape.model)


def test_choices_that_fail_together_are_one_failed_request() -> None:
    shape = Shape(end_bias=-100.0)
    trial = shape.trial()
    good = request("good", BLOCKS[1], max_tokens=30)
    trial.submit(good, request("bad", BLOCKS[0], max_tokens=30, choices=3))
    trial.until(lambda: len(trial.answers["bad"].tokens(2)) > 2)
    first = BLOCKS[0][0]
    overrule(
        trial,
        lambda rows: (
            NativeError("it was made to")
            if any(trial.backend.tokens(r.seq_id)[:1] == [first] for r in rows)
            else None
        ),
    )
    trial.finish()
    assert trial.answers["bad"].failed.code == "native_error"
    assert trial.answers["good"].said() == expected(good, shape.model)


@pytest.mark.parametrize("first", ["error", "late"])
def test_no_room_while_rows_are_taken_one_by_one_harms_nobody(first: str) -> None:
    """Taken apart, a row may find no room, and whose cells are taken then may come next, or may
    just have got a token."""
    shape = Shape(num_cells=400, end_bias=-100.0)
    for at, last in itertools.product(range(1, 4), range(3)):
        asked = [
            request(f"r{i}", BLOCKS[i], max_tokens=12, temperature=0.9, priority=-(i == last))
            for i in range(3)
        ]
        trial = shape.trial()
        trial.submit(*asked)
        trial.until(lambda trial=trial: all(a.deltas for a in trial.answers.values()))
        trial.faults.extend([first, *[None] * (at - 1), "no_room"])
        trial.finish()
        for one in asked:
            answer = trial.answers[one.request_id]
            assert answer.said() == expected(one, shape.model)


@pytest.mark.parametrize("num_cells", [None, 200], ids=["lanes", "pool"])
def test_a_context_of_one_sequence_serves_one_after_the_other(num_cells: int | None) -> None:
    shape = Shape(num_cells=num_cells, num_sequences=1)
    asked = [request(f"r{i}", BLOCKS[i]) for i in range(3)]
    answers = shape.trial().serve(*asked)
    for one, answer in zip(asked, answers, strict=True):
        assert answer.said() == expected(one, shape.model)


def test_a_deterministic_engine_needs_a_neighbour() -> None:
    with pytest.raises(InvalidRequest, match="num_sequences of 2"):
        Shape(num_sequences=1, is_deterministic=True).trial()


def test_a_pool_that_is_too_small_for_all_lets_them_take_turns() -> None:
    shape = Shape(num_cells=120, end_bias=-100.0)
    trial = shape.trial()
    asked = [request(f"r{i}", BLOCKS[i % 3], max_tokens=70) for i in range(6)]
    preempted = 0
    trial.submit(*asked)
    for _ in range(2000):
        if trial.engine.is_idle:
            break
        trial.step()
        waiting = trial.engine.scheduler.waiting
        preempted = max(preempted, *(one.num_preemptions for one in waiting), 0)
    trial.finish()
    assert preempted
    for one in asked:
        assert trial.answers[one.request_id].said() == expected(one, shape.model)


def test_of_the_lowest_priority_the_youngest_gives_its_cells_up() -> None:
    trial = Shape(num_cells=200, end_bias=-100.0).trial()
    trial.submit(
        request("old", BLOCKS[0], max_tokens=150),
        request("low", BLOCKS[1], max_tokens=100, priority=-1),
        request("young", BLOCKS[2], max_tokens=150),
    )
    trial.until(lambda: any(w.num_preemptions for w in trial.engine.scheduler.waiting))
    assert [one.request_id for one in trial.engine.scheduler.waiting] == ["low"]
    trial.until(lambda: len(trial.engine.scheduler.waiting) == 2)
    assert [one.request_id for one in trial.engine.scheduler.running] == ["old"]


# ---- deadlines, cancelling, closing -------------------------------------------------------------


def check_cancel_takes_effect_within_one_step() -> None:
    shape = Shape(end_bias=-100.0)
    stays = request("stays", BLOCKS[1], max_tokens=30)
    for at in range(12):
        trial = shape.trial()
        trial.submit(stays, request("goes", BLOCKS[0] + BLOCKS[2], max_tokens=30, choices=2))
        trial.step(at)
        trial.cancel("goes")
        trial.step()
        assert {c.reason for c in trial.answers["goes"].finished.choices} == {"cancelled"}
        trial.finish()
        assert trial.answers["stays"].said() == expected(stays, shape.model)


def test_a_cancelled_request_ends_within_one_step_and_leaves_others_alone() -> None:
    check_cancel_takes_effect_within_one_step()


def test_a_cancelled_request_says_what_it_held_back() -> None:
    trial = Shape(end_bias=-100.0).trial()
    whole = request("whole", BLOCKS[0], max_tokens=30)
    [alone] = trial.serve(whole)
    text = alone.text()
    asked = request("a", BLOCKS[0], max_tokens=30, stop=(text[:5] + "no such thing",))
    trial.submit(asked)
    trial.until(lambda: len(trial.answers["a"].tokens()) >= 3)
    assert trial.answers["a"].text() == ""
    trial.cancel("a")
    trial.finish()
    assert trial.answers["a"].text()
    assert text.startswith(trial.answers["a"].text())


def test_unknown_and_ended_requests_are_cancelled_without_effect() -> None:
    trial = Shape().trial()
    trial.cancel("nobody")
    [answer] = trial.serve(request("a"))
    trial.cancel("a")
    trial.step()
    assert answer.said().reason != "cancelled"


def test_a_timeout_fails_its_request_wherever_it_is_and_no_other() -> None:
    shape = Shape(num_sequences=2, end_bias=-100.0)
    trial = shape.trial()
    stays = request("stays", BLOCKS[1], max_tokens=60)
    trial.submit(
        stays,
        request("runs", BLOCKS[0], max_tokens=100, timeout_seconds=0.2),
        request("waits", BLOCKS[2], max_tokens=100, timeout_seconds=0.1),
    )
    trial.finish()
    for name, seconds in (("runs", "0.2"), ("waits", "0.1")):
        failed = trial.answers[name].failed
        assert failed.code == "deadline_exceeded"
        assert failed.retryable
        assert seconds in failed.message
    assert trial.answers["runs"].tokens()
    assert not trial.answers["waits"].tokens()
    assert trial.answers["stays"].said() == expected(stays, shape.model)


def test_closing_ends_every_request() -> None:
    trial = Shape(num_sequences=2).trial()
    trial.submit(*(request(f"r{i}", BLOCKS[i % 3], max_tokens=50) for i in range(5)))
    trial.step(3)
    ends = trial.engine.close()
    failed = {event.request_id: event for event in ends if isinstance(event, Failed)}
    assert failed.keys() == trial.answers.keys()
    assert {event.code for event in failed.values()} == {"overloaded"}
    assert trial.engine.is_idle
    assert not trial.engine.step()
