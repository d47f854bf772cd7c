"""Log-probabilities of prompts: each once, those of a token-by-token pass, whatever happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.engine.engine import EngineOptions
from samovar.engine.latency import LEAST_GAP_SECONDS
from samovar.errors import InvalidRequest
from samovar.native import philox
from samovar.native.interface import Row, StateKind
from samovar.native.weightless import WeightlessBackend
from samovar.types import Finished, GenerateRequest, TokenLogprobs
from tests.conftest import scaled
from tests.engine.builders import KINDS, MODES, Answer, Model, Trial, block, expected, request
from tests.engine.cached import place
from tests.engine.scenarios import Scenario, scenarios
from tests.engine.test_cached import computed, end, restored, started
from tests.engine.test_promised_gap import Machine, Watch
from tests.engine.test_shares import fresh

LONG = (*block(0, 90), *block(3, 60))
ROOM = 512
SIDE = 32  # tokens of a decode call


@lru_cache(maxsize=256)
def scores_of(
    prompt: tuple[int, ...],
    count: int,
    adapters: tuple[tuple[str, float], ...] = (),
    end_bias: float = 0.0,
) -> list[TokenLogprobs]:
    """From the second token on, of a backend that computes a token at a time."""
    backend = WeightlessBackend(context_length=2048, end_bias=end_bias)
    backend.apply_adapters([(backend.load_adapter(name), scale) for name, scale in adapters])
    found = []
    for token, following in pairwise(prompt):
        backend.prefill([token])
        one = philox.logprobs(backend.logits(0), following, count)
        found.append(TokenLogprobs(following, one.chosen, one.top))
    return found


def scored(name: str = "a", prompt: Sequence[int] = LONG, **more: object) -> GenerateRequest:
    return request(name, prompt, **{"prompt_logprobs": 2, "max_tokens": 3, **more})


def check(answer: Answer, asked: GenerateRequest) -> None:
    """What was told is right, and what was generated is what it is without."""
    assert isinstance(asked.prompt, tuple)
    first = max(1, asked.num_scored) - 1
    assert answer.scores == scores_of(asked.prompt, asked.prompt_logprobs or 0)[first:]
    for choice in range(0 if asked.prefill_only else asked.choices):
        assert answer.said(choice) == expected(asked, Model(ROOM), choice)


def trial_of(
    kind: StateKind = StateKind.DIVISIBLE, mode: str = "adaptive", **more: object
) -> Trial:
    shape = {"context_length": ROOM, "num_sequences": 4, "batch_size": SIDE, **more}
    backend = WeightlessBackend(state_kind=kind, **shape)  # type: ignore[arg-type]
    return Trial(backend, EngineOptions(is_deterministic=mode == "deterministic"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_token_but_the_first_has_its_score(kind: StateKind, mode: str) -> None:
    asked = [
        scored("one", LONG[:1]),
        scored("two", LONG[:2], prompt_logprobs=0),
        scored("few", LONG[:9], prompt_logprobs=32),
        scored("chunk", LONG[: SIDE + 1]),
        scored("long", block(9, 130)),
        scored("only", block(8, 70), prefill_only=True),
    ]
    for one in asked:
        (answer,) = trial_of(kind, mode).serve(one)
        check(answer, one)
    trial = trial_of(kind, mode)
    answers = trial.serve(*asked, request("plain", block(5, 50)))
    for one, answer in zip(asked, answers, strict=False):
        check(answer, one)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_computed_whole_however_much_is_known(kind: StateKind, mode: str) -> None:
    trial = trial_of(kind, mode)
    trial.serve(request("warm", LONG))
    before = computed(trial)
    one = scored("a")
    (answer,) = trial.serve(one)
    check(answer, one)
    assert computed(trial) - before >= len(LONG)
    assert answer.finished.usage.cached.total == 0
    beside = [scored("b"), request("c", LONG), scored("d")]
    for asked, found in zip(beside, trial.serve(*beside), strict=True):
        assert found.said() == expected(asked, Model(ROOM))
        assert found.finished.usage.cached.total == 0 or asked.prompt_logprobs is None
        assert len(found.scores) == (0 if asked.prompt_logprobs is None else len(LONG) - 1)


def test_what_was_computed_for_scores_is_warm_for_others() -> None:
    trial = trial_of()
    trial.serve(scored("a"))
    (answer,) = trial.serve(request("b", LONG))
    assert answer.finished.usage.cached.live == len(LONG) - 1


def test_in_deterministic_mode_pieces_of_another_size_are_nobody_elses() -> None:
    trial = trial_of(mode="deterministic", batch_size=400)
    prompt = (*block(0, 250), *block(1, 200))
    trial.serve(scored("a", prompt))
    assert max(len(row.tokens) for rows in trial.calls for row in rows) == 256
    (answer,) = trial.serve(request("b", prompt))
    assert answer.finished.usage.cached.total == 0


@pytest.mark.parametrize("mode", MODES)
def test_choices_follow_on_one_prompt_whose_scores_are_told_once(mode: str) -> None:
    one = scored(choices=3, temperature=1.0, max_tokens=9)
    (answer,) = trial_of(mode=mode).serve(one)
    check(answer, one)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", ["no_room", "interrupted", "lost", "lost_all"])
@pytest.mark.parametrize("after", range(6))
def test_a_step_that_fails_tells_nothing_twice(mode: str, fault: str, after: int) -> None:
    trial = trial_of(mode=mode)
    trial.faults.extend([*[None] * after, fault, None, fault])
    asked = [scored("a"), request("b", block(5, 50)), scored("c", block(6, 80))]
    for one, answer in zip(asked, trial.serve(*asked), strict=True):
        if one.request_id not in trial.excused:
            assert len(answer.scores) == (0 if one.prompt_logprobs is None else len(one.prompt) - 1)
            assert answer.said() == expected(one, Model(ROOM))


@pytest.mark.parametrize("kind", KINDS)
def test_who_loses_its_cells_for_others_goes_on_with_its_scores(kind: StateKind) -> None:
    trial = trial_of(kind, num_cells=240, batch_size=16)
    trial.submit(request("first", block(5, 60), max_tokens=100, priority=1))
    trial.step(6)
    asked = scored("a", block(7, 120), max_tokens=60)
    trial.submit(asked)
    trial.until(lambda: len(trial.answers["a"].scores) > 40)
    sequence = next(one for one in trial.engine.scheduler.running if one.request_id == "a")
    trial.engine._before_preempt(sequence)  # noqa: SLF001 - as when cells run out just now
    trial.engine.scheduler.preempt(sequence)
    trial.finish()
    check(trial.answers["a"], asked)
    assert sequence.num_preemptions


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_another_engine_tells_the_rest(kind: StateKind, mode: str) -> None:
    whole = scored("a", temperature=1.0, seed=4)
    first = trial_of(kind, mode)
    first.submit(whole)
    for _ in range(9):
        first.step()
        answer = first.answers["a"]
        done = {"num_scored": len(answer.scores) + 1, "generated": (answer.tokens(),)}
        rest = scored("a", temperature=1.0, seed=4, **done)
        (other,) = trial_of(kind, mode).serve(rest)
        assert answer.scores + other.scores == scores_of(LONG, 2)
        assert answer.tokens() + other.tokens() == expected(whole, Model(ROOM)).tokens
        if answer.end is not None:
            break
    assert answer.end is not None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_gives_nothing_but_what_was_told_before(kind: StateKind, mode: str) -> None:
    with place() as where:
        trial = started(where, kind, is_deterministic=mode == "deterministic", end_bias=0.0)
        trial.serve(request("a", LONG))
        end(trial)
        trial = started(where, kind, is_deterministic=mode == "deterministic", end_bias=0.0)
        one, rest = scored("b"), scored("c", num_scored=113)
        (answer,) = trial.serve(one)
        assert (answer.scores, restored(answer)) == (scores_of(LONG, 2), 0)
        divergence = answer.finished.usage.divergence
        assert divergence is not None
        assert divergence.reason == "scored"
        end(trial)
        trial = started(where, kind, is_deterministic=mode == "deterministic", end_bias=0.0)
        (answer,) = trial.serve(rest)
        assert answer.scores == scores_of(LONG, 2)[112:]
        assert restored(answer) <= 112
        if (kind, mode) == (StateKind.DIVISIBLE, "adaptive"):
            assert restored(answer) > 0
        end(trial)


def test_a_session_that_is_sent_whole_is_scored_and_one_that_goes_on_is_refused() -> None:
    trial = trial_of()
    for name in ("a", "b"):
        one = scored(name, session="s")
        (answer,) = trial.serve(one)
        check(answer, one)
    assert trial.engine.sessions.tokens("s")[: len(LONG)] == list(LONG)
    with pytest.raises(InvalidRequest, match="prompt_logprobs"):
        scored("c", session="s", continues=True)


@pytest.mark.parametrize(
    "more", [{"prompt_logprobs": 33}, {"prompt_logprobs": -1}, {"num_scored": -1}]
)
def test_what_makes_no_sense_is_refused(more: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest):
        scored(**more)


def test_more_scores_than_tokens_are_refused() -> None:
    (answer,) = trial_of().serve(scored(num_scored=len(LONG) + 1))
    assert answer.failed.code == "invalid_request"


def test_a_step_has_no_more_logits_than_fit_into_a_small_buffer() -> None:
    trial = trial_of(context_length=2048, batch_size=512)
    trial.serve(scored("a", fresh(900, 1)), scored("b", fresh(700, 2)))
    sizes = [sum(len(row.tokens) for row in rows if row.following) for rows in trial.calls]
    assert max(sizes) == 256


# ---- everything at once --------------------------------------------------------------------------


@settings(max_examples=scaled(30, 3000), database=None, deadline=None)
@given(scenarios(is_faulty=True), st.sets(st.integers(0, 6), min_size=1))
def test_scores_depend_on_nobody_else_and_change_nothing(
    scenario: Scenario, which: set[int]
) -> None:
    clients = tuple(
        replace(one, asked=replace(one.asked, prompt_logprobs=1)) if number in which else one
        for number, one in enumerate(scenario.clients)
    )
    trial, bias = replace(scenario, clients=clients).play(), scenario.shape.end_bias
    scenario.judge(trial)
    for number, one in enumerate(scenario.clients):
        answer, prompt = trial.answers[one.asked.request_id], one.asked.prompt
        assert isinstance(prompt, tuple)
        right = scores_of(prompt, 1, one.asked.adapters, bias) if number in which else []
        assert answer.scores == right[: len(answer.scores)]
        if one.cancels is None and isinstance(answer.end, Finished):
            is_short = number in which and one.asked.request_id in trial.excused
            assert len(answer.scores) == len(right) or is_short


# ---- the promise --------------------------------------------------------------------------------


class Scoring(Machine):
    """A machine on which a token with log-probabilities costs several."""

    def __call__(self, rows: Sequence[Row], backend: WeightlessBackend) -> float:
        extra = sum(len(row.following) for row in rows)
        return super().__call__(rows, backend) + self.each * extra

    each: float = 0.0


@pytest.mark.parametrize(
    ("machine", "each"),
    [
        (Scoring(0.002, 0.001, 0.0002), 0.002),
        (Scoring(0.02, 0.01, 0.002), 0.004),
        (Scoring(0.02, 0.01, 0.002), 0.008),
    ],
)
def test_scores_do_not_keep_those_who_decode_waiting(machine: Scoring, each: float) -> None:
    object.__setattr__(machine, "each", each)
    watch = Watch(machine)
    watch.start(["d0", "d1"])
    trial = watch.trial
    beside = [
        scored("s0", fresh(600, 50)),
        request("p0", fresh(600, 51), max_tokens=1),
        scored("s1", fresh(600, 52)),
        request("p1", fresh(600, 53), max_tokens=1),
    ]
    trial.submit(*beside)
    while not all(trial.has_ended(one.request_id) for one in beside):
        assert trial.num_steps < 4000
        watch.step()
    assert all(len(trial.answers[name].scores) == 599 for name in ("s0", "s1"))
    # The first of them have a price that is a guess.
    assert len(watch.breaches) <= 8, watch.breaches
    assert all(gap <= 1.6 * max(promise, LEAST_GAP_SECONDS) for gap, promise in watch.breaches)
