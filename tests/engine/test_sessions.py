"""Sessions: kept, continued, forked, reclaimed, ended and reset."""

from __future__ import annotations

import pytest

from samovar.engine.engine import Engine
from samovar.engine.latency import StepCosts
from samovar.engine.scheduler import Limits, Scheduler
from samovar.engine.seats import Cuts, Seats
from samovar.engine.sessions import Sessions
from samovar.errors import InvalidRequest, SessionBusy, SessionNotFound
from samovar.native.weightless import WeightlessBackend
from samovar.types import Event, Failed, Finished, GenerateRequest, TextDelta

MOST_STEPS = 500


def run(engine: Engine) -> list[Event]:
    events: list[Event] = []
    for _ in range(MOST_STEPS):
        events += engine.step()
        for seat in engine.scheduler.seats:
            assert engine.backend.tokens(seat.seq_id) == seat.tokens
        if engine.is_idle:
            return events
    raise AssertionError(f"not done after {MOST_STEPS} steps")


def ask(engine: Engine, prompt: object, **more: object) -> tuple[list[int], Finished]:
    engine.submit(GenerateRequest("r", prompt, **{"max_tokens": 5, **more}))  # type: ignore[arg-type]
    events = run(engine)
    end = events[-1]
    assert isinstance(end, Finished), end
    return [t for e in events if isinstance(e, TextDelta) for t in e.tokens], end


def refused(engine: Engine, prompt: object, **more: object) -> str:
    engine.submit(GenerateRequest("r", prompt, **more))  # type: ignore[arg-type]
    (failed,) = run(engine)
    assert isinstance(failed, Failed)
    return failed.code


@pytest.fixture(params=[None, 400], ids=["lanes", "pool"])
def backend(request: pytest.FixtureRequest) -> WeightlessBackend:
    return WeightlessBackend(
        num_sequences=3, context_length=200, num_cells=request.param, end_bias=-1e3
    )


def test_a_continued_session_says_what_the_whole_prompt_would(backend: WeightlessBackend) -> None:
    engine = Engine(backend)
    first, _ = ask(engine, (1, 2, 3), session="s")
    more, end = ask(engine, (4, 5), session="s", continues=True)
    assert end.usage.prompt_tokens == 10
    assert end.usage.cached.live == 7  # the last token of an answer is not computed yet
    assert engine.sessions.tokens("s") == [1, 2, 3, *first, 4, 5, *more]
    alone, _ = ask(Engine(WeightlessBackend(end_bias=-1e3)), (1, 2, 3, *first, 4, 5))
    assert more == alone


def test_an_empty_continuation_goes_on(backend: WeightlessBackend) -> None:
    engine = Engine(backend)
    first, _ = ask(engine, (1, 2, 3), session="s")
    more, _ = ask(engine, (), session="s", continues=True)
    whole, _ = ask(engine, (1, 2, 3), max_tokens=10)
    assert first + more == whole


def test_a_whole_prompt_that_goes_another_way_replaces_the_session(
    backend: WeightlessBackend,
) -> None:
    engine = Engine(backend)
    ask(engine, tuple(range(40)), session="s")
    said, end = ask(engine, (*range(30), 99), session="s")
    assert end.usage.cached.live == 30
    assert engine.sessions.tokens("s") == [*range(30), 99, *said]


def test_what_is_expected_of_a_session_is_checked_first(backend: WeightlessBackend) -> None:
    engine = Engine(backend)
    first, _ = ask(engine, (1, 2, 3), session="s")
    held = engine.sessions.tokens("s")
    wrong = (1, 2, 4, *first)
    options = {"session": "s", "continues": True}
    assert refused(engine, (4,), expect_committed=wrong, **options) == "transcript_mismatch"
    assert engine.sessions.tokens("s") == held
    ask(engine, (4,), expect_committed=tuple(held), **options)


def test_a_busy_session_refuses_and_goes_on(backend: WeightlessBackend) -> None:
    engine = Engine(backend)
    engine.submit(GenerateRequest("one", (1, 2), session="s", max_tokens=20))
    engine.step()
    engine.submit(GenerateRequest("two", (1, 2), session="s"))
    for operation in (engine.sessions.end, lambda name: engine.sessions.fork(name, "t")):
        with pytest.raises(SessionBusy):
            operation("s")
    ends = {e.request_id: e for e in run(engine) if not isinstance(e, TextDelta)}
    assert isinstance(ends["one"], Finished)
    assert isinstance(ends["two"], Failed)
    assert ends["two"].code == "session_busy"


def test_a_fork_goes_its_own_way_from_the_same_tokens(backend: WeightlessBackend) -> None:
    engine = Engine(backend)
    ask(engine, tuple(range(50)), session="s")
    engine.sessions.fork("s", "t")
    one, end = ask(engine, (7,), session="t", continues=True)
    assert end.usage.cached.live >= 50
    two, _ = ask(engine, (8,), session="s", continues=True)
    assert engine.sessions.tokens("t")[-6:] == [7, *one]
    assert engine.sessions.tokens("s")[-6:] == [8, *two]
    with pytest.raises(InvalidRequest):
        engine.sessions.fork("s", "t")


def test_idle_sessions_give_way_and_can_still_be_continued(backend: WeightlessBackend) -> None:
    engine = Engine(backend)
    said = {}
    for number in range(5):  # more sessions than sequences
        said[number], _ = ask(engine, (number, 1, 2), session=f"s{number}")
    assert engine.scheduler.seats.of_session("s0") is None
    _, end = ask(engine, (9,), session="s0", continues=True)
    assert end.usage.prompt_tokens == 9
    assert engine.sessions.tokens("s0")[:9] == [0, 1, 2, *said[0], 9]


def test_ended_and_unknown_sessions_are_not_found(backend: WeightlessBackend) -> None:
    engine = Engine(backend)
    ask(engine, (1, 2), session="s")
    engine.sessions.end("s")
    assert refused(engine, (1,), session="s", continues=True) == "session_not_found"
    for operation in (engine.sessions.end, engine.sessions.tokens):
        with pytest.raises(SessionNotFound):
            operation("s")
    assert all(seat.session is None for seat in engine.scheduler.seats)


def test_a_reset_fails_the_running_request_and_nobody_else(backend: WeightlessBackend) -> None:
    engine = Engine(backend)
    engine.submit(GenerateRequest("one", (1, 2), session="s", max_tokens=20))
    engine.submit(GenerateRequest("two", (3, 4), session="t", max_tokens=20))
    engine.step()
    engine.reset_session("s")
    engine.reset_session("never there")
    ends = {e.request_id: e for e in run(engine) if not isinstance(e, TextDelta)}
    assert isinstance(ends["one"], Failed)
    assert (ends["one"].code, ends["one"].retryable) == ("session_reset", True)
    assert isinstance(ends["two"], Finished)
    assert "s" not in engine.sessions
    assert "t" in engine.sessions


def test_a_session_whose_first_request_fails_leaves_nothing() -> None:
    backend = WeightlessBackend(num_sequences=2, end_bias=-1e3)
    engine = Engine(backend)
    assert refused(engine, (258,), session="s") == "invalid_token"
    assert "s" not in engine.sessions
    engine.submit(GenerateRequest("one", (1, 2), session="s", max_tokens=20, timeout_seconds=1e-9))
    run(engine)
    assert "s" not in engine.sessions
    assert all(seat.session is None for seat in engine.scheduler.seats)


def test_only_so_many_sessions_are_remembered() -> None:
    scheduler = Scheduler(Limits(8, 64), Seats(2, Cuts(is_divisible=True)), StepCosts())
    sessions = Sessions(scheduler, limit=3)
    for number in range(10):
        request = GenerateRequest("r", (1,), session=f"s{number}")
        sessions.begin(request)
        sessions._all[f"s{number}"].tokens = [number]  # noqa: SLF001 - as `keep` would
        sessions.release(request)
    assert len(sessions) == 3
    assert "s9" in sessions
