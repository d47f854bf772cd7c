"""Clients who come, go, keep sessions and change their minds, in any order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from samovar.engine.sessions import MAX_SESSIONS
from samovar.errors import InvalidRequest, SessionBusy, SessionNotFound
from samovar.native.interface import StateKind
from samovar.types import Failed, Finished, GenerateRequest
from tests.conftest import scaled
from tests.engine.builders import FAULTS, KINDS, MODES, Answer, request
from tests.engine.scenarios import BLOCKS, Shape, judge, requests

names = st.sampled_from(["s", "t", "u"])


class Clients(RuleBasedStateMachine):
    """Random clients of one engine. Sessions are known here as lists of tokens."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.trial = shape, shape.trial()
        self.room = shape.model.room
        self.asked: dict[str, GenerateRequest] = {}
        self.before: dict[str, tuple[int, ...]] = {}
        self.refusals: dict[str, str] = {}
        """Request -> code of the error that it must get."""
        self.deadlines: dict[str, float] = {}
        self.open: list[str] = []
        self.cancelled: set[str] = set()
        self.sessions: dict[str, tuple[int, ...]] = {}
        self.busy: dict[str, str] = {}
        """Session -> the request that runs on it."""

    # ---- requests -----------------------------------------------------------------------------

    @rule(data=st.data(), timeout=st.sampled_from([None, None, None, 0.05, 0.5]))
    def ask(self, data: st.DataObject, timeout: float | None) -> None:
        asked = data.draw(requests(self.next_name(), self.shape.num_sequences))
        self.submit(replace(asked, timeout_seconds=timeout))

    @rule(data=st.data(), session=names, how=st.sampled_from(["anew", "whole", "on", "nothing"]))
    def ask_on_a_session(self, data: st.DataObject, session: str, how: str) -> None:
        """Begin anew, repeat what it holds and add to it, or continue it, with something or not."""
        asked = replace(data.draw(requests(self.next_name())), session=session)
        held = self.sessions.get(session, ())
        if how == "whole":
            asked = replace(asked, prompt=held + asked.prompt)
        elif how in ("on", "nothing"):
            prompt = asked.prompt[:30] if how == "on" else ()
            committed = data.draw(st.sampled_from([None, held, (*held[:-1], 251)]))
            asked = replace(asked, prompt=prompt, continues=True, expect_committed=committed)
        self.submit(asked)

    def next_name(self) -> str:
        return f"r{len(self.asked)}"

    def submit(self, asked: GenerateRequest) -> None:
        name = asked.request_id
        self.asked[name] = asked
        self.before[name] = self.sessions.get(asked.session or "", ())
        self.open.append(name)
        refusal = self.refusal(asked)
        if refusal is not None:
            self.refusals[name] = refusal
        elif asked.session is not None:
            self.busy[asked.session] = name
        if asked.timeout_seconds is not None:
            self.deadlines[name] = self.trial.clock.now + asked.timeout_seconds
        self.trial.submit(asked)

    def refusal(self, asked: GenerateRequest) -> str | None:
        """Why a request cannot be taken as things stand."""
        held = self.sessions.get(asked.session or "")
        if asked.session in self.busy:
            return "session_busy"
        if asked.continues:
            if held is None:
                return "session_not_found"
            if asked.expect_committed not in (None, held):
                return "transcript_mismatch"
        length = len(asked.prompt) + (len(held or ()) if asked.continues else 0)
        if length + (not asked.prefill_only) > self.room:
            return "context_length_exceeded"
        return None

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.open))
        self.cancelled.add(name)
        self.trial.cancel(name)

    # ---- sessions -----------------------------------------------------------------------------

    @rule(source=names, fork=names)
    def fork(self, source: str, fork: str) -> None:
        sessions = self.trial.engine.sessions
        if source in self.busy:
            with pytest.raises(SessionBusy):
                sessions.fork(source, fork)
        elif source not in self.sessions:
            with pytest.raises(SessionNotFound):
                sessions.fork(source, fork)
        elif fork in self.sessions or fork in self.busy:
            with pytest.raises(InvalidRequest):
                sessions.fork(source, fork)
        else:
            sessions.fork(source, fork)
            self.sessions[fork] = self.sessions[source]

    @rule(name=names)
    def end(self, name: str) -> None:
        sessions = self.trial.engine.sessions
        if name in self.busy:
            with pytest.raises(SessionBusy):
                sessions.end(name)
        elif name not in self.sessions:
            with pytest.raises(SessionNotFound):
                sessions.end(name)
        else:
            sessions.end(name)
            del self.sessions[name]

    # ---- time, and what goes wrong ------------------------------------------------------------

    @rule(count=st.sampled_from([1, 1, 2, 5]))
    def step(self, count: int) -> None:
        for _ in range(count):
            late = [n for n in self.open if self.trial.clock.now > self.deadlines.get(n, 1e9)]
            due = [name for name in self.open if name in self.cancelled]
            self.trial.step()
            assert all(self.trial.has_ended(name) for name in due), "cancelled, and goes on"
            assert all(self.trial.has_ended(name) for name in late), "late, and goes on"
            self.hear()

    @rule(seconds=st.sampled_from([0.1, 1.0]))
    def wait(self, seconds: float) -> None:
        self.trial.clock.advance(seconds)

    @rule(faults=st.lists(st.sampled_from([None, *FAULTS]), max_size=4))
    def fail(self, faults: list[str | None]) -> None:
        self.trial.faults.extend(faults)

    def hear(self) -> None:
        """Judge what ended, and note what the sessions hold now."""
        for name in [name for name in self.open if self.trial.has_ended(name)]:
            self.open.remove(name)
            self.judge(name)
            session = self.asked[name].session
            if session is not None and self.busy.get(session) == name:
                del self.busy[session]
                self.keep(session, name)

    def keep(self, session: str, name: str) -> None:
        answer, asked = self.trial.answers[name], self.asked[name]
        if isinstance(answer.end, Finished):
            before = self.before[name] if asked.continues else ()
            self.sessions[session] = (*before, *asked.prompt, *answer.tokens())

    def judge(self, name: str) -> None:
        answer, asked = self.trial.answers[name], self.asked[name]
        if name in self.refusals:
            assert answer.failed.code == self.refusals[name]
            assert answer.failed.retryable == (self.refusals[name] == "session_busy")
            assert not answer.deltas
            return
        is_late = isinstance(answer.end, Failed) and answer.end.code == "deadline_exceeded"
        if is_late:
            # Not `>`: the engine adds and subtracts the same seconds in another order.
            assert self.trial.clock.now >= self.deadlines[name] - 1e-9
            answer = Answer(answer.deltas)  # what was said until then is judged
        judge(
            asked,
            answer,
            self.shape.model,
            before=self.before[name],
            was_cancelled=name in self.cancelled,
            may_break=name in self.trial.excused,
        )

    # ---- what is always so --------------------------------------------------------------------

    @invariant()
    def sessions_hold_what_was_said(self) -> None:
        sessions = self.trial.engine.sessions
        assert len(sessions) == len(self.sessions.keys() | self.busy.keys())
        for name, tokens in self.sessions.items():
            if name not in self.busy:
                assert tuple(sessions.tokens(name)) == tokens

    def teardown(self) -> None:
        self.trial.faults.clear()
        self.trial.finish()
        self.hear()
        assert not self.open
        assert not self.busy
        for name in self.sessions:
            self.trial.engine.sessions.end(name)
        self.trial.step()
        if self.trial.engine.scheduler.seats.is_pool:
            assert self.trial.num_cells_used() == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_cells", [None, 180], ids=["lanes", "pool"])
@pytest.mark.parametrize("kind", KINDS)
def test_random_clients_get_what_they_would_get_alone(
    kind: StateKind, num_cells: int | None, mode: str
) -> None:
    def start() -> Clients:
        is_deterministic = mode == "deterministic"
        return Clients(Shape(kind, num_cells, 3, 16, is_deterministic))

    run_state_machine_as_test(
        start,
        settings=settings(
            max_examples=scaled(10, 500), stateful_step_count=40, database=None, deadline=None
        ),
    )


# ---- sessions, one thing at a time --------------------------------------------------------------


def on(name: str, session: str, prompt: tuple[int, ...], **more: object) -> GenerateRequest:
    return request(name, prompt, session=session, max_tokens=4, **more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_cells", [None, 400], ids=["lanes", "pool"])
def test_a_session_goes_on_without_computing_what_it_holds(
    kind: StateKind, num_cells: int | None
) -> None:
    trial = Shape(kind, num_cells, end_bias=-100.0).trial()
    trial.serve(on("a", "s", BLOCKS[0]))
    trial.calls.clear()
    [answer] = trial.serve(on("b", "s", (7, 8), continues=True))
    first = trial.calls[0][0]
    assert list(first.tokens) == [trial.answers["a"].tokens()[-1], 7, 8]
    assert answer.finished.usage.cached.live == len(BLOCKS[0]) + 3
    assert answer.finished.usage.prompt_tokens == len(BLOCKS[0]) + 4 + 2


def test_a_session_whose_cells_were_needed_goes_on_from_its_tokens() -> None:
    shape = Shape(num_sequences=1, end_bias=-100.0)
    trial = shape.trial()
    trial.serve(on("a", "s", BLOCKS[0]))
    trial.serve(on("other", "o", BLOCKS[1]))
    assert trial.engine.scheduler.seats.of_session("s") is None
    [answer] = trial.serve(on("b", "s", (7,), continues=True))
    before = BLOCKS[0] + trial.answers["a"].tokens()
    judge(on("b", "s", (7,), continues=True), answer, shape.model, before=before)


def test_the_session_that_was_longest_unused_gives_its_cells_up_first() -> None:
    trial = Shape(num_sequences=3, end_bias=-100.0).trial()
    for name in ("s", "t", "u"):
        trial.serve(on(f"first {name}", name, BLOCKS[0]))
    trial.serve(on("again", "s", (7,), continues=True))
    trial.serve(on("new", "n", BLOCKS[1]))
    kept = {seat.session for seat in trial.engine.scheduler.seats}
    assert kept == {"s", "u", "n"}


def test_a_fork_shares_its_source_until_they_part() -> None:
    shape = Shape(num_cells=400, end_bias=-100.0)
    trial = shape.trial()
    trial.serve(on("a", "s", BLOCKS[0] + BLOCKS[1]))
    before = BLOCKS[0] + BLOCKS[1] + trial.answers["a"].tokens()
    trial.engine.sessions.fork("s", "t")
    asked = [on("left", "s", (1,), continues=True), on("right", "t", (2,), continues=True)]
    answers = trial.serve(*asked)
    for one, answer in zip(asked, answers, strict=True):
        judge(one, answer, shape.model, before=before)
    assert trial.num_cells_used() < len(before) + 2 * 8


def test_no_more_than_so_many_sessions_are_remembered() -> None:
    trial = Shape(num_sequences=2).trial()
    for index in range(MAX_SESSIONS + 3):
        trial.submit(on(f"r{index}", f"s{index}", (5,), prefill_only=True))
        trial.step()
    trial.finish()
    assert len(trial.engine.sessions) == MAX_SESSIONS
    with pytest.raises(SessionNotFound):
        trial.engine.sessions.tokens("s0")
