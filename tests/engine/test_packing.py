"""Lanes that run are moved next to each other, and nobody notices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from samovar.engine.engine import Engine
from samovar.native.context import ContextOptions
from samovar.native.interface import Aborted, Backend, NoRoom, Row, StateKind, Stepped
from samovar.native.llama import LlamaBackend
from samovar.native.weightless import WeightlessBackend
from samovar.types import Event, GenerateRequest, SamplingParams, TextDelta
from tests.conftest import Models
from tests.engine.test_llama_texts import logits_of, noise, put

FREE = SamplingParams(ignore_eos=True)
MOST_STEPS = 400


def said(events: list[Event], request_id: str) -> list[int]:
    deltas = [e for e in events if isinstance(e, TextDelta) and e.request_id == request_id]
    return [token for delta in deltas for token in delta.tokens]


def drive(engine: Engine, steps: int) -> list[Event]:
    events: list[Event] = []
    for _ in range(steps):
        events += engine.step()
        for seat in engine.scheduler.seats:
            assert engine.backend.tokens(seat.seq_id) == seat.tokens
    return events


def ids(engine: Engine) -> list[int | None]:
    return [one.seq_id for one in engine.scheduler.running]


def texts_with_and_without_leavers(
    backend: Backend, stay: tuple[int, ...]
) -> list[tuple[tuple[int, ...], list[int], list[int]]]:
    """Of those that stay: the prompt, what was said beside those who leave, and alone."""
    engine = Engine(backend)
    expected = {}
    for number in stay:
        engine.submit(GenerateRequest("alone", (60, 61, number), FREE, max_tokens=60))
        expected[number] = said(drive(engine, 80), "alone")
        assert engine.is_idle
    count = backend.num_sequences
    for number in range(count):
        engine.submit(GenerateRequest(f"r{number}", (60, 61, number), FREE, max_tokens=60))
    events = drive(engine, 6)
    for number in set(range(count)) - set(stay):
        engine.cancel(f"r{number}")
    events += drive(engine, 6)
    found = [i for i in ids(engine) if i is not None]
    assert len(found) == len(stay)
    assert found[-1] - found[0] == len(stay) - 1, "no gap is left between the lanes that stay"
    events += drive(engine, 80)
    assert engine.is_idle
    return [((60, 61, n), said(events, f"r{n}"), expected[n]) for n in stay]


def num_sure(backend: LlamaBackend, asked: tuple[int, ...], text: list[int], noise: float) -> int:
    """How many tokens of a text come before one that float noise could have made another."""
    backend.seq_rm(0)
    put(backend, 0, list(asked))
    for count, token in enumerate(text):
        logits = logits_of(backend, 0)
        logits[list(backend.vocabulary.eog_tokens)] = -np.inf
        second, first = np.partition(logits, -2)[-2:]
        if first - second < 10 * noise:
            return count
        put(backend, 0, [token])
    return len(text)


@pytest.mark.parametrize("kind", [k for k in StateKind if k is not StateKind.NONE])
def test_lanes_far_apart_move_together(kind: StateKind) -> None:
    backend = WeightlessBackend(
        state_kind=kind, num_sequences=8, context_length=96, end_bias=-1e3, batch_size=32
    )
    for _, beside, alone in texts_with_and_without_leavers(backend, (0, 7)):
        assert beside == alone


@pytest.mark.native
@pytest.mark.parametrize("kind", ["llama", "lfm2", "mamba"])
def test_lanes_of_real_models_move_together(models: Models, kind: str) -> None:
    options = ContextOptions(
        context_length=128, num_sequences=6, batch_size=32, micro_batch_size=32, threads=1
    )
    path = models(kind)
    with LlamaBackend.open(path, context=options) as backend:
        texts = texts_with_and_without_leavers(backend, (1, 5))
        sure = [num_sure(backend, asked, alone, noise(path)) for asked, _, alone in texts]
    assert sum(sure) >= 8, "near ties are rare"
    for count, (_, beside, alone) in zip(sure, texts, strict=True):
        assert beside[:count] == alone[:count]


def test_what_sat_idle_in_the_way_is_still_warm_afterwards() -> None:
    backend = WeightlessBackend(num_sequences=6, context_length=256, end_bias=-1e3)
    engine = Engine(backend)
    for number in range(6):
        prompt = tuple(range(40 * number, 40 * number + 40))
        engine.submit(GenerateRequest(f"r{number}", prompt, FREE, max_tokens=100))
    drive(engine, 5)
    for number in (1, 2, 3, 4):
        engine.cancel(f"r{number}")
    drive(engine, 5)
    assert ids(engine) == [0, 1]
    kept = sorted(seat.tokens[0] for seat in engine.scheduler.seats.idle())
    assert kept == [40, 80, 120, 160]


def test_a_move_that_does_not_pay_is_not_made() -> None:
    backend = WeightlessBackend(num_sequences=6, context_length=256, end_bias=-1e3)
    engine = Engine(backend)
    for number in range(6):
        engine.submit(GenerateRequest(f"r{number}", (number, 1), FREE, max_tokens=10))
    drive(engine, 9)
    for number in (1, 2, 3, 4):
        engine.cancel(f"r{number}")
    engine.costs.decode_seconds = {1: 1e-9}
    drive(engine, 1)
    assert ids(engine) == [0, 5] or engine.is_idle


@pytest.mark.parametrize("row_seconds", [0.0, 1.0])
def test_a_few_gaps_are_bridged_where_rows_cost_less_than_moves(row_seconds: float) -> None:
    backend = WeightlessBackend(num_sequences=4, context_length=256, end_bias=-1e3)
    engine = Engine(backend)
    for number in range(4):
        engine.submit(GenerateRequest(f"r{number}", (number, 1), FREE, max_tokens=50))
    drive(engine, 3)
    engine.cancel("r1")
    engine.costs.decode_seconds = {1: 1.0, 4: 1.0 + 3 * row_seconds}
    rows: list[int] = []
    original = backend.step

    def watch(given: Sequence[Row]) -> Stepped | NoRoom | Aborted:
        rows[:] = [row.seq_id for row in given]
        return original(given)

    backend.step = watch  # type: ignore[method-assign]
    drive(engine, 1)
    assert rows == ([0, 1, 2] if row_seconds else [0, 1, 2, 3])
    assert ids(engine) == ([0, 1, 2] if row_seconds else [0, 2, 3])
