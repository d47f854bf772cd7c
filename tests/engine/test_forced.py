"""Forced tokens: computed in one go, heard, and no danger to anybody when a grammar gives up."""

from __future__ import annotations

import pytest

from samovar.engine.engine import Engine
from samovar.errors import GrammarRejected
from samovar.native.weightless import WeightlessBackend, WeightlessSampler
from samovar.types import Event, Failed, Finished, GenerateRequest, TextDelta

MOST_STEPS = 100


def run(engine: Engine) -> list[Event]:
    events: list[Event] = []
    for _ in range(MOST_STEPS):
        events += engine.step()
        for seat in engine.scheduler.seats:
            assert engine.backend.tokens(seat.seq_id) == seat.tokens
        if engine.is_idle:
            return events
    raise AssertionError(f"not done after {MOST_STEPS} steps")


def test_forced_tokens_are_part_of_the_answer_and_of_the_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WeightlessSampler, "forced", lambda _, limit: [65, 66, 67][:limit])
    engine = Engine(WeightlessBackend(end_bias=-1e3))
    engine.submit(GenerateRequest("r", (1, 2), max_tokens=10))
    events = run(engine)
    tokens = [t for e in events if isinstance(e, TextDelta) for t in e.tokens]
    assert len(tokens) == 10
    assert tokens[1:4] == tokens[5:8] == [65, 66, 67]
    assert isinstance(events[-1], Finished)
    assert engine.backend.calls == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", ["forced", "accept"])
def test_a_grammar_that_gives_up_at_a_forced_token_fails_alone(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    engine = Engine(WeightlessBackend(end_bias=-1e3))
    for name in ("bad", "good"):
        engine.submit(GenerateRequest(name, (1, 2, len(name)), max_tokens=10))
    events = engine.step()
    (sampler,) = [s.sampler for s in engine.scheduler.running if s.request_id == "bad"]

    def give_up(_: int) -> list[int]:
        raise GrammarRejected("too much work")

    if where == "accept":
        monkeypatch.setattr(sampler, "forced", lambda _: [65])
        original = sampler.accept  # type: ignore[union-attr]
        monkeypatch.setattr(sampler, "accept", lambda t: give_up(t) if t == 65 else original(t))
    else:
        monkeypatch.setattr(sampler, "forced", give_up)
    events += run(engine)
    ends = {e.request_id: e for e in events if isinstance(e, (Finished, Failed))}
    assert isinstance(ends["bad"], Failed)
    assert ends["bad"].code == "grammar_rejected"
    assert isinstance(ends["good"], Finished)
