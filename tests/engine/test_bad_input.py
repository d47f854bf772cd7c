"""What is wrong with a request is its own failure: the engine and its neighbours go on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from samovar.errors import InvalidRequest, NativeError, SamovarError, StateRejected
from samovar.native.context import ContextOptions
from samovar.native.interface import Sampled
from samovar.native.weightless import WeightlessBackend, WeightlessSampler
from samovar.types import GenerateRequest, SamplingParams
from tests.engine.builders import Trial, expected, request
from tests.engine.scenarios import BLOCKS, CONTEXT, Shape

SHAPE = Shape(end_bias=-100.0)


def beside(bad: GenerateRequest, prepare: Callable[[Trial], None] = lambda _: None) -> Trial:
    """Serve a bad request beside good ones that came before and after it; returns the trial."""
    trial = SHAPE.trial()
    before = request("before", BLOCKS[0], max_tokens=20, temperature=0.9)
    after = request("after", BLOCKS[1], max_tokens=20)
    trial.submit(before)
    trial.step(3)
    prepare(trial)
    trial.submit(bad)
    trial.step(3)
    trial.submit(after)
    trial.finish()
    for one in (before, after):
        assert trial.answers[one.request_id].said() == expected(one, SHAPE.model)
    return trial


BAD = {
    "a prompt longer than the room": (request("bad", range(CONTEXT)), "context_length_exceeded"),
    "a text longer than the room": (request("bad", "x" * 5000), "context_length_exceeded"),
    "an id beyond the vocabulary": (request("bad", (1, 258)), "invalid_token"),
    "a negative id": (request("bad", (1, -1)), "invalid_token"),
    "an id beyond any number": (request("bad", (1, 2**70)), "invalid_token"),
    "a truth as an id": (request("bad", (1, True)), "invalid_token"),
    "half an id": (request("bad", (1, 0.5)), "invalid_token"),  # type: ignore[arg-type]
    "text as an id": (request("bad", (1, "a")), "invalid_token"),  # type: ignore[arg-type]
    "an adapter that nobody loaded": (
        request("bad", adapters=(("nobody", 1.0),)),
        "invalid_request",
    ),
    "an adapter without end": (request("bad", adapters=(("x", math.inf),)), "invalid_request"),
    "an adapter by no number": (request("bad", adapters=(("x", math.nan),)), "invalid_request"),
    "an adapter by a text": (request("bad", adapters=(("x", "1"),)), "invalid_request"),
    "adapters in lists": (request("bad", adapters=(["x", 1.0],)), "invalid_request"),
    "more choices than sequences": (request("bad", choices=5), "invalid_request"),
    "a session that is not there": (
        request("bad", (), session="s", continues=True),
        "session_not_found",
    ),
    "a grammar that is none": (
        request("bad", sampling=SamplingParams(grammar="root ::=")),
        "grammar_rejected",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_fails_alone_and_says_why(case: str) -> None:
    bad, code = BAD[case]
    trial = beside(bad)
    failed = trial.answers["bad"].failed
    assert failed.code == code
    assert not failed.retryable
    assert failed.message
    assert "\n" not in failed.message
    assert not trial.answers["bad"].deltas


@pytest.mark.parametrize("prompt", ["", b"", ()])
def test_an_empty_prompt_is_no_request(prompt: str | bytes | tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        GenerateRequest("a", prompt)


def test_an_id_that_is_in_use_is_refused_without_touching_the_other() -> None:
    trial = SHAPE.trial()
    good = request("a", BLOCKS[0], max_tokens=10)
    trial.submit(good)
    trial.step(2)
    with pytest.raises(InvalidRequest, match="this id"):
        trial.engine.submit(request("a", BLOCKS[1]))
    trial.finish()
    assert trial.answers["a"].said() == expected(good, SHAPE.model)
    trial.serve(request("a", BLOCKS[1]))


def test_a_prompt_and_an_answer_longer_than_the_room_end_where_it_is_used_up() -> None:
    bad = request("bad", range(CONTEXT - 10), max_tokens=1000)
    trial = beside(bad)
    assert trial.answers["bad"].said() == expected(bad, SHAPE.model)
    assert trial.answers["bad"].said().reason == "length"


def test_a_prompt_may_fill_the_room_but_for_one_token() -> None:
    trial = beside(request("bad", range(CONTEXT - 1), max_tokens=1000))
    assert len(trial.answers["bad"].tokens()) == 1


def test_more_sequences_than_a_batch_has_tokens_are_no_context() -> None:
    with pytest.raises(InvalidRequest, match="num_sequences"):
        ContextOptions(num_sequences=9, batch_size=8, micro_batch_size=8)


def test_as_many_sequences_as_a_batch_has_tokens_all_decode() -> None:
    shape = Shape(num_sequences=8, batch_size=8, end_bias=-100.0)
    asked = [request(f"r{i}", (i, i + 1, *BLOCKS[2]), max_tokens=9) for i in range(8)]
    answers = shape.trial().serve(*asked)
    for one, answer in zip(asked, answers, strict=True):
        assert answer.said() == expected(one, shape.model)


# ---- what goes wrong in the middle --------------------------------------------------------------


class DeadEnd(WeightlessSampler):
    """Has no token to give after a few, like a grammar that leads nowhere."""

    error: SamovarError = InvalidRequest("no token can be picked here")

    def sample(self, logits: np.ndarray, position: int) -> Sampled:
        if len(self.accepted) == 3:
            raise self.error
        return super().sample(logits, position)


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize(
    "error", [InvalidRequest("no token can be picked here"), NativeError("the sampler was freed")]
)
def test_a_sampler_that_fails_in_the_middle_fails_its_request_alone(
    error: SamovarError, choices: int
) -> None:
    def prepare(trial: Trial) -> None:
        make = trial.backend.new_sampler

        def new_sampler(params: SamplingParams, tokens: object = ()) -> WeightlessSampler:
            if params.seed != 13 + choices - 1:
                return make(params, tokens)  # type: ignore[arg-type]
            made = DeadEnd(params)
            made.error = error
            return made

        trial.backend.new_sampler = new_sampler  # type: ignore[method-assign,assignment]

    trial = beside(request("bad", BLOCKS[2], seed=13, choices=choices), prepare)
    failed = trial.answers["bad"].failed
    assert failed.code == error.code
    assert len(trial.answers["bad"].tokens(choices - 1)) == 3


def test_a_state_that_is_refused_is_computed_again() -> None:
    shape = Shape(end_bias=-100.0)
    trial = shape.trial()
    refused: list[int] = []

    def refuse(seq_id: int, *_: object) -> None:
        refused.append(seq_id)
        trial.backend.seq_rm(seq_id)
        raise StateRejected("a state was damaged")

    trial.backend.import_ranges = refuse  # type: ignore[method-assign,assignment]
    runs = request("runs", BLOCKS[0] + BLOCKS[1], max_tokens=30)
    begins_alike = request("begins alike", BLOCKS[0] + BLOCKS[2], max_tokens=9)
    trial.submit(runs)
    trial.step(4)
    trial.submit(begins_alike)
    trial.finish()
    assert refused
    for one in (runs, begins_alike):
        assert trial.answers[one.request_id].said() == expected(one, shape.model)
    assert trial.answers["begins alike"].finished.usage.cached.live == 0


def test_samplers_that_were_made_are_closed_when_another_cannot_be() -> None:
    closed: list[int] = []

    class Watched(WeightlessSampler):
        def close(self) -> None:
            closed.append(self.seed)

    backend = WeightlessBackend()

    def new_sampler(params: SamplingParams, tokens: object = ()) -> WeightlessSampler:  # noqa: ARG001
        if params.seed == 2:
            raise InvalidRequest("it was made to")
        return Watched(params)

    backend.new_sampler = new_sampler  # type: ignore[method-assign,assignment]
    trial = Trial(backend)
    [answer] = trial.serve(request("a", choices=4))
    assert answer.failed.code == "invalid_request"
    assert closed == [0, 1]
