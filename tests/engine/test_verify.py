"""Verification says what greedy decoding would have said, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from samovar.engine.engine import Engine
from samovar.native.context import ContextOptions
from samovar.native.interface import Aborted, Backend, NoRoom, StateKind
from samovar.native.llama import LlamaBackend
from samovar.native.weightless import WeightlessBackend
from samovar.types import Event, Failed, GenerateRequest, TextDelta, Verified, VerifyRequest
from tests.conftest import GENERATING_KINDS, Models

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


def greedy(engine: Engine, prompt: tuple[int, ...], count: int) -> list[int]:
    engine.submit(GenerateRequest("greedy", prompt, max_tokens=count))
    return [t for e in run(engine) if isinstance(e, TextDelta) for t in e.tokens]


def check_all_lengths(backend: Backend) -> None:
    engine = Engine(backend)
    prompt = tuple(backend.tokenize("tea and cake"))
    said = greedy(engine, prompt, 10)
    assert len(said) == 10
    for right in range(9):
        candidates = [*said[:right], (said[right] + 1) % 200, *said[right + 1 : 9]]
        engine.submit(VerifyRequest("verify", prompt, tuple(candidates)))
        (verdict,) = run(engine)
        assert isinstance(verdict, Verified)
        assert (verdict.accepted, verdict.next_token) == (right, said[right])
        assert verdict.usage.generated_tokens == 0
    engine.submit(VerifyRequest("verify", prompt, tuple(said[:9])))
    (verdict,) = run(engine)
    assert isinstance(verdict, Verified)
    assert (verdict.accepted, verdict.next_token) == (9, said[9])
    assert greedy(engine, prompt, 10) == said


@pytest.mark.parametrize("kind", [k for k in StateKind if k is not StateKind.NONE])
@pytest.mark.parametrize("num_cells", [None, 64], ids=["lanes", "pool"])
def test_verdicts_are_the_greedy_continuation(kind: StateKind, num_cells: int | None) -> None:
    backend = WeightlessBackend(
        state_kind=kind, num_cells=num_cells, context_length=64, batch_size=4, end_bias=-1e3
    )
    check_all_lengths(backend)


@pytest.mark.native
@pytest.mark.parametrize("layout", ["lanes", "pool"])
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_verdicts_of_real_models_are_the_greedy_continuation(
    models: Models, kind: str, layout: str
) -> None:
    path: Path = models(kind)
    options = ContextOptions(
        context_length=256, num_sequences=3, layout=layout, batch_size=64, micro_batch_size=64
    )
    with LlamaBackend.open(path, context=options) as backend:
        check_all_lengths(backend)


def test_a_neighbour_says_the_same_beside_a_verification() -> None:
    alone = greedy(Engine(WeightlessBackend()), (1, 2, 3), 20)
    engine = Engine(WeightlessBackend())
    engine.submit(GenerateRequest("neighbour", (1, 2, 3), max_tokens=20))
    events = engine.step()
    for number in range(5):
        engine.submit(VerifyRequest(f"v{number}", (1, 2, 3, number), (7, 8, 9)))
    events += run(engine)
    said = [t for e in events if isinstance(e, TextDelta) for t in e.tokens]
    assert said == alone
    assert sum(isinstance(event, Verified) for event in events) == 5


@pytest.mark.parametrize("outcome", [NoRoom(), Aborted(), Aborted(lost=(0,))])
def test_a_verification_that_cannot_be_computed_fails_alone(outcome: NoRoom | Aborted) -> None:
    backend = WeightlessBackend(end_bias=-1e3)
    engine = Engine(backend)
    said = greedy(engine, (1, 2, 3), 3)
    engine.submit(VerifyRequest("verify", (1, 2, 3), tuple(said)))
    original = backend.argmaxes

    def fail_first(seq_id: int, tokens: list[int]) -> list[int]:
        backend.fail_next(outcome)
        return original(seq_id, tokens)

    backend.argmaxes = fail_first  # type: ignore[method-assign, assignment]
    (failed,) = run(engine)
    assert isinstance(failed, Failed)
    assert failed.retryable
    assert greedy(engine, (1, 2, 3), 3) == said


def test_what_cannot_fit_or_is_no_token_is_refused() -> None:
    engine = Engine(WeightlessBackend(context_length=16))
    for prefix, candidates in (((1,) * 10, (2,) * 7), ((1,), (258,)), ((258,), (1,))):
        engine.submit(VerifyRequest("verify", prefix, candidates))
        (failed,) = run(engine)
        assert isinstance(failed, Failed)
        assert not failed.retryable
