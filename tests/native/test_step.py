"""Steps: many sequences in one batch, what a full context does to them, and how rows fail alone."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from samovar.errors import NativeError, Overloaded
from samovar.native.context import Context
from samovar.native.interface import NoRoom, Row, RowFailed, Sampled, Stepped
from samovar.native.llama import LlamaBackend
from samovar.types import SamplingParams
from tests.conftest import GENERATING_KINDS, Models
from tests.native.test_backend import (
    NOISE,
    Watcher,
    greedy,
    logits_of,
    opened,
    prompt,
    put,
)

pytestmark = pytest.mark.native

LAYOUTS = ("lanes", "pool")
LENGTHS = (70, 3, 130, 41)
"""Of the prompts: more than the sliding window, less, and more than one chunk."""


def fill(backend: LlamaBackend) -> None:
    """Four sequences of different lengths."""
    for seq_id, length in enumerate(LENGTHS):
        put(backend, seq_id, prompt(length, seq_id))


def positions(context: Context) -> list[int]:
    """How many cells each sequence ends with, as llama.cpp says."""
    return [context.last_position(s) + 1 for s in range(context.num_sequences)]


# ---- together as alone --------------------------------------------------------------------------


def alone(path: Path, seq_id: int, tokens: list[int]) -> np.ndarray:
    """The logits before each of `tokens`, of a sequence that has the context for itself."""
    seen = []
    with opened(path) as (backend, _):
        put(backend, 0, prompt(LENGTHS[seq_id], seq_id))
        for token in tokens:
            seen.append(logits_of(backend))
            put(backend, 0, [token])
    return np.array(seen)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_sequences_in_one_batch_go_on_as_each_does_alone(
    models: Models, kind: str, quant: str, layout: str
) -> None:
    path, steps = models(kind, quant), 12
    told: list[list[int]] = [[] for _ in LENGTHS]
    seen: list[list[np.ndarray]] = [[] for _ in LENGTHS]
    with opened(path, layout=layout) as (backend, context):
        fill(backend)
        for _ in range(steps):
            for s in range(4):
                seen[s].append(logits_of(backend, s))
                told[s].append(int(seen[s][-1].argmax()))
            backend.step([Row(s, told[s][-1:]) for s in range(4)])
        assert positions(context) == [length + steps for length in LENGTHS]
    for s in range(4):
        expected = alone(path, s, told[s])
        assert np.abs(np.array(seen[s]) - expected).max() < NOISE[quant]
        agree_until_a_near_tie(told[s], expected, NOISE[quant])


def agree_until_a_near_tie(told: list[int], expected: np.ndarray, noise: float) -> None:
    """Greedy tokens are the same as long as noise could not have swapped the two likeliest."""
    for token, logits in zip(told, expected, strict=True):
        second, first = np.sort(logits)[-2:]
        if first - second < 2 * noise:
            return
        assert token == int(logits.argmax())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_the_order_of_rows_makes_no_difference(models: Models, kind: str, layout: str) -> None:
    rows = [Row(0, [30]), Row(1, prompt(20, 7)), Row(2, [40, 41]), Row(3, [50])]
    seen: list[list[np.ndarray]] = []
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        with opened(models(kind), layout=layout) as (backend, _):
            fill(backend)
            watchers = [Watcher() for _ in rows]
            shuffled = [Row(rows[i].seq_id, rows[i].tokens, watchers[i]) for i in order]
            outcome = backend.step(shuffled)
            assert isinstance(outcome, Stepped)
            picked = [int(watchers[i].seen.argmax()) for i in order]
            assert [r.token for r in outcome.results if isinstance(r, Sampled)] == picked
            seen.append([logits_of(backend, s) for s in range(4)])
    assert np.abs(np.array(seen) - seen[0]).max() < NOISE["F16"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_prompts_and_single_tokens_share_a_batch(models: Models, kind: str, layout: str) -> None:
    with opened(models(kind), layout=layout) as (backend, context):
        put(backend, 0, prompt(65))
        backend.step(
            [Row(0, [30]), Row(1, prompt(40, 1)), Row(2, prompt(20, 2), wants_logits=False)]
        )
        backend.step([Row(0, [31]), Row(1, [32]), Row(2, [33])])
        assert positions(context) == [67, 41, 21, 0]
        together = [logits_of(backend, s) for s in range(3)]
    with opened(models(kind)) as (backend, _):
        for s, tokens in enumerate(
            [[*prompt(65), 30, 31], [*prompt(40, 1), 32], [*prompt(20, 2), 33]]
        ):
            put(backend, s, tokens)
            assert np.abs(logits_of(backend, s) - together[s]).max() < NOISE["F16"]


# ---- sequences that sit a step out --------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_an_idle_sequence_keeps_its_logits(models: Models, kind: str, layout: str) -> None:
    with opened(models(kind), layout=layout) as (backend, _):
        fill(backend)
        before = [logits_of(backend, s) for s in range(4)]
        backend.step([Row(3, [5]), Row(1, prompt(40, 9))])
        backend.step([Row(3, [6])])
        backend.step([Row(3, [7], wants_logits=False)])
        assert np.array_equal(logits_of(backend, 0), before[0])
        assert np.array_equal(logits_of(backend, 2), before[2])
        assert not np.array_equal(logits_of(backend, 1), before[1])


def test_logits_that_nobody_looked_at_survive_the_next_steps(models: Models) -> None:
    with opened(models()) as (backend, _):
        fill(backend)
        with opened(models()) as (twin, _):
            fill(twin)
            twin.step([Row(0, [5]), Row(2, prompt(8)), Row(3, [6])])
            expected = [logits_of(twin, s) for s in range(4)]
        backend.step([Row(0, [5]), Row(2, prompt(8)), Row(3, [6])])
        backend.step([Row(1, [9])])
        backend.step([Row(1, [9])])
        for s in (0, 2, 3):
            assert np.array_equal(logits_of(backend, s), expected[s])


# ---- no room ------------------------------------------------------------------------------------


def crowd(backend: LlamaBackend) -> None:
    """Fill a pool of 256 cells but for a few, the last step with rows of different lengths."""
    put(backend, 3, prompt(192, 3), wants=False)
    assert isinstance(
        backend.step([Row(0, prompt(5)), Row(1, [44]), Row(2, [3, 4])]),
        Stepped,
    )


@pytest.mark.parametrize("kind", ["llama", "gemma2", "lfm2"])
def test_no_room_leaves_everything_as_it_was(models: Models, kind: str) -> None:
    size = {"layout": "pool", "context_length": 256, "batch_size": 128}
    with opened(models(kind), **size) as (twin, _):
        crowd(twin)
        expected = [logits_of(twin, s) for s in range(3)]
        with opened(models(kind), **size) as (backend, context):
            crowd(backend)
            watchers = [Watcher() for _ in range(3)]
            outcome = backend.step([Row(s, prompt(40), watchers[s]) for s in range(3)])
            assert isinstance(outcome, NoRoom)
            assert all(w.seen.size == 0 and not w.accepted for w in watchers)
            assert positions(context) == [5, 1, 2, 192]
            assert [len(backend.tokens(s)) for s in range(4)] == [5, 1, 2, 192]
            for s in range(3):
                assert np.array_equal(logits_of(backend, s), expected[s])
            for tokens in ([7], [8, 9]):
                assert isinstance(backend.step([Row(s, tokens) for s in range(3)]), Stepped)
                twin.step([Row(s, tokens) for s in range(3)])
            for s in range(3):
                assert np.array_equal(logits_of(backend, s), logits_of(twin, s))


def test_no_room_is_over_when_a_sequence_leaves(models: Models) -> None:
    with opened(models(), layout="pool", context_length=256) as (backend, _):
        put(backend, 0, prompt(200))
        assert isinstance(backend.step([Row(1, prompt(60))]), NoRoom)
        backend.seq_rm(0)
        assert isinstance(backend.step([Row(1, prompt(60))]), Stepped)


def test_decode_one_without_room_has_not_moved_its_sampler(models: Models) -> None:
    with opened(models(), layout="pool", context_length=256) as (backend, _):
        backend.configure_sampler(SamplingParams(temperature=1.0, seed=5))
        put(backend, 1, prompt(192))
        backend.prefill(prompt(60))
        drawn = [backend.decode_one().token for _ in range(4)]
        before = logits_of(backend)
        with pytest.raises(Overloaded):
            backend.decode_one()
        assert np.array_equal(logits_of(backend), before)
        backend.seq_rm(1)
        drawn += [backend.decode_one().token for _ in range(4)]
    with opened(models(), layout="pool", context_length=256) as (backend, _):
        backend.configure_sampler(SamplingParams(temperature=1.0, seed=5))
        put(backend, 1, prompt(192))
        backend.prefill(prompt(60))
        again = [backend.decode_one().token for _ in range(4)]
        backend.seq_rm(1)  # when it went before: in the pool others' cells count in the last bits
        again += [backend.decode_one().token for _ in range(4)]
    assert drawn == again


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_a_lane_has_room_whatever_its_neighbours_hold(models: Models, kind: str) -> None:
    with opened(models(kind), context_length=256) as (backend, context):
        for s in range(4):
            put(backend, s, prompt(256, s), wants=False)
        assert positions(context) == [256] * 4


# ---- rows that fail ------------------------------------------------------------------------------


class Failing(Watcher):
    """Cannot pick, or is not allowed what it picked."""

    def __init__(self, *, when: str) -> None:
        super().__init__()
        self._when = when

    def sample(self, logits: np.ndarray, position: int) -> Sampled:
        if self._when == "picking":
            raise NativeError("no token is left")
        return super().sample(logits, position)

    def accept(self, token: int) -> None:
        if self._when == "accepting":
            raise NativeError("the token is not allowed")
        super().accept(token)


@pytest.mark.parametrize("when", ["picking", "accepting"])
def test_a_row_whose_sampler_fails_does_not_hurt_its_siblings(models: Models, when: str) -> None:
    with opened(models()) as (backend, _):
        fill(backend)
        samplers = [Watcher(), Failing(when=when), Watcher()]
        outcome = backend.step([Row(s, [5], samplers[s]) for s in range(3)])
        assert isinstance(outcome, Stepped)
        first, failed, last = outcome.results
        assert isinstance(failed, RowFailed)
        assert isinstance(failed.error, NativeError)
        assert [first, last] == [
            Sampled(int(logits_of(backend, s).argmax()), is_eog=False) for s in (0, 2)
        ]
        assert backend.tokens(1) == [*prompt(3, 1), 5]  # computed all the same
        assert backend.has_logits(1)
        assert len(greedy(backend, 1, 3)) == 3


# ---- samplers ------------------------------------------------------------------------------------


def test_samplers_of_one_step_do_not_touch_each_other(models: Models) -> None:
    def drawn(company: int) -> list[int]:
        with opened(models()) as (backend, _):
            sampler = backend.new_sampler(SamplingParams(temperature=2.0, top_k=50, seed=11))
            others = [
                backend.new_sampler(SamplingParams(temperature=1.0, repeat_penalty=1.3, seed=s))
                for s in range(company)
            ]
            fill(backend)
            found = []
            for _ in range(15):
                # The same company of rows, so that the logits are the same to the bit.
                rows = [Row(0, [found[-1] if found else 5], sampler)]
                rows += [Row(s + 1, [6], others[s] if s < company else None) for s in range(3)]
                outcome = backend.step(rows)
                assert isinstance(outcome, Stepped)
                assert isinstance(outcome.results[0], Sampled)
                found.append(outcome.results[0].token)
            return found

    assert drawn(0) == drawn(1) == drawn(3)


def test_a_sampler_goes_on_where_it_was_when_its_sequence_moves(models: Models) -> None:
    params = SamplingParams(temperature=1.5, seed=8)
    with opened(models()) as (backend, _):
        sampler = backend.new_sampler(params)
        put(backend, 0, prompt(65))
        expected = []
        for _ in range(6):
            expected.append(backend.sample(0, sampler).token)
            put(backend, 0, expected[-1:])
        backend.seq_rm(0)
        again = backend.new_sampler(params)
        put(backend, 2, prompt(65))
        for index, token in enumerate(expected):
            assert backend.sample(2, again).token == token
            put(backend, 2, [token])
            if index == 2:
                backend.seq_cp(2, 0)
                backend.seq_rm(2)
                backend.seq_cp(0, 2)


def test_random_steps_keep_tokens_and_cells_together(models: Models) -> None:
    chance = random.Random(5)
    held: list[list[int]] = [[] for _ in range(4)]
    with opened(models(), layout="pool") as (backend, context):
        for _ in range(60):
            rows = [
                Row(s, [chance.randrange(5, 250) for _ in range(chance.choice([1, 1, 1, 9]))])
                for s in chance.sample(range(4), chance.randint(1, 4))
            ]
            if isinstance(backend.step(rows), Stepped):
                for row in rows:
                    held[row.seq_id] += row.tokens
            victim = chance.randrange(4)
            if chance.random() < 0.2:
                start = chance.randint(0, len(held[victim]))
                assert backend.seq_rm(victim, start)
                del held[victim][start:]
            assert [backend.tokens(s) for s in range(4)] == held
            assert positions(context) == [len(tokens) for tokens in held]
