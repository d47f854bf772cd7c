"""What is told of a prompt before anything is generated. `Trial` checks that it is told once,
before everything else, and that it is what the usage says at the end.
"""

from __future__ import annotations

import pytest

from samovar.engine.engine import Engine
from samovar.native.interface import StateKind
from samovar.native.weightless import WeightlessBackend
from samovar.types import (
    Begun,
    Cached,
    EmbedRequest,
    Finished,
    GenerateRequest,
    Verified,
    VerifyRequest,
)
from tests.engine.builders import KINDS, Trial, block, request
from tests.engine.cached import place, transfer_of
from tests.engine.test_cached import PROMPT, end, started

SMALL = {"num_sequences": 2, "batch_size": 16, "end_bias": -1e3}


def begun(trial: Trial, name: str) -> Begun:
    """What was told of a request."""
    found = trial.answers[name].begun
    assert found is not None, "it did not begin"
    return found


def test_it_is_told_with_the_first_step_of_a_long_prompt() -> None:
    trial = Trial(WeightlessBackend(**SMALL))  # type: ignore[arg-type]
    trial.submit(request("a", block(0, 100)))
    trial.step()
    assert begun(trial, "a").prompt_tokens == 100
    assert begun(trial, "a").cached == Cached()
    assert not trial.answers["a"].deltas
    trial.finish()


def test_what_a_sequence_of_the_context_had_is_told() -> None:
    trial = Trial(WeightlessBackend(**SMALL))  # type: ignore[arg-type]
    trial.serve(request("a", block(0, 60)))
    trial.submit(request("b", (*block(0, 60), *block(1, 60))))
    trial.step()
    assert begun(trial, "b").cached.live >= 60
    assert not trial.answers["b"].deltas
    trial.finish()


@pytest.mark.parametrize("keeps_logits", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_cache_had_is_told_once_it_has_come(
    kind: StateKind, *, keeps_logits: bool
) -> None:
    with place(memory_bytes=0, keeps_logits=keeps_logits) as where:
        trial = started(where, kind)
        trial.serve(request("a", PROMPT))
        end(trial)
        trial = started(where, kind)
        longer = request("longer", (*PROMPT, *block(2, 60)), max_tokens=30)
        trial.submit(longer, request("same", PROMPT))
        trial.finish()
        assert begun(trial, "longer").cached.disk > 0
        assert begun(trial, "same").cached.total > 0


def test_nothing_is_told_while_blocks_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with place(memory_bytes=0) as where:
        trial = started(where, StateKind.DIVISIBLE)
        trial.serve(request("a", PROMPT))
        end(trial)
        trial = started(where, StateKind.DIVISIBLE)
        transfer = transfer_of(trial.cache.store)  # type: ignore[union-attr]
        with monkeypatch.context() as slow:
            slow.setattr(transfer, "wait", lambda _: None)
            trial.submit(request("a", PROMPT))
            trial.step(5)
            assert trial.answers["a"].begun is None
        transfer.work()
        trial.step()
        assert begun(trial, "a").cached.disk > 0
        trial.finish()


def test_who_loses_its_cells_does_not_begin_again() -> None:
    backend = WeightlessBackend(num_sequences=3, num_cells=120, end_bias=-1e3)
    trial = Trial(backend)
    for number in range(3):
        trial.submit(request(f"r{number}", block(number, 30), max_tokens=40))
    trial.until(lambda: any(one.num_preemptions for one in trial.engine.scheduler.waiting))
    trial.finish()
    assert all(answer.begun is not None for answer in trial.answers.values())


@pytest.mark.parametrize("fault", ["no_room", "lost_all", "interrupted"])
def test_a_step_that_goes_wrong_does_not_tell_it_again(fault: str) -> None:
    trial = Trial(WeightlessBackend(**SMALL))  # type: ignore[arg-type]
    trial.submit(request("a", block(0, 50)), request("b", block(1, 50)))
    trial.faults.extend([fault, None, fault])
    trial.finish()
    assert all(answer.begun is not None for answer in trial.answers.values())


def test_each_request_with_choices_begins_once() -> None:
    trial = Trial(WeightlessBackend(num_sequences=4, batch_size=16))
    for number, length in enumerate((3, 50, 120)):
        trial.submit(request(f"r{number}", block(number, length), choices=3, temperature=1.0))
    trial.finish()
    told = [begun(trial, f"r{number}").prompt_tokens for number in range(3)]
    assert told == [3, 50, 120]


def test_what_only_warms_a_prompt_begins_as_well() -> None:
    trial = Trial()
    trial.serve(request("a", block(0, 40), prefill_only=True))
    assert begun(trial, "a").prompt_tokens == 40


def test_what_was_generated_elsewhere_is_not_of_the_prompt() -> None:
    trial = Trial()
    trial.serve(request("a", (1, 2, 3), generated=((65, 66),)))
    assert begun(trial, "a").prompt_tokens == 3


def test_the_tokens_of_a_session_are_of_the_prompt() -> None:
    trial = Trial()
    trial.serve(request("a", block(0, 40), session="s", max_tokens=5))
    held = len(trial.engine.sessions.tokens("s"))
    trial.serve(request("b", (1, 2), session="s", continues=True))
    assert begun(trial, "b").prompt_tokens == held + 2
    assert begun(trial, "b").cached.live > 0


def test_who_ends_while_it_waits_never_begins() -> None:
    trial = Trial(WeightlessBackend(num_sequences=1, end_bias=-1e3))
    trial.submit(request("running", block(0, 20), max_tokens=30))
    trial.step()
    trial.submit(
        request("cancelled"), request("late", timeout_seconds=1.0), request("wrong", (9999,))
    )
    trial.cancel("cancelled")
    trial.clock.advance(2.0)
    trial.step()
    for name in ("cancelled", "late", "wrong"):
        assert trial.has_ended(name)
        assert trial.answers[name].begun is None
    trial.finish()


def test_what_generates_nothing_does_not_begin() -> None:
    engine = Engine(WeightlessBackend())
    engine.submit(VerifyRequest("verify", (1, 2, 3), (4, 5)))
    assert [type(one) for one in engine.run()] == [Verified]
    engine.submit(EmbedRequest("embed", ("text",)))
    assert Begun not in [type(one) for one in engine.run()]
    engine.submit(GenerateRequest("generate", (1, 2, 3), max_tokens=2))
    kinds = [type(one) for one in engine.run()]
    assert (kinds[0], kinds[-1], kinds.count(Begun)) == (Begun, Finished, 1)
