"""Requests that somebody else began: they go on as if they had never stopped."""

from __future__ import annotations

import pytest

from samovar.errors import InvalidRequest
from samovar.native.interface import StateKind
from samovar.native.weightless import EOS, WeightlessBackend
from samovar.types import GenerateRequest
from tests.engine.builders import KINDS, Answer, Trial, request


def serve(one: GenerateRequest, kind: StateKind = StateKind.DIVISIBLE) -> Answer:
    backend = WeightlessBackend(state_kind=kind, end_bias=2.0)
    return Trial(backend).serve(one)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_a_request_goes_on_from_every_token(kind: StateKind, seed: int) -> None:
    more = {"temperature": 1.0, "seed": seed, "max_tokens": 12, "stop": ("a", "bc")}
    whole = serve(request("a", "once upon a time", **more), kind)
    tokens = whole.tokens()
    for count in range(len(tokens) + 1):
        rest = serve(request("a", "once upon a time", generated=(tokens[:count],), **more), kind)
        assert tokens[:count] + rest.tokens() == tokens
        assert rest.finished.choices == whole.finished.choices
        heard = sum(len(delta.tokens) for delta in whole.deltas if delta.tokens)
        assert heard == len(tokens)
        before = "".join(delta.text for delta in whole.deltas[:count])
        assert before + rest.text() == whole.text()
        assert rest.finished.usage.generated_tokens == len(tokens)


def test_choices_go_on_from_where_each_of_them_was() -> None:
    more = {"temperature": 1.0, "seed": 3, "max_tokens": 10, "choices": 3}
    whole = serve(request("a", "once", **more))
    said = [whole.tokens(choice) for choice in range(3)]
    begun = (said[0][:2], said[1], said[2][:5])
    rest = serve(request("a", "once", generated=begun, **more))
    assert [begun[i] + rest.tokens(i) for i in range(3)] == said
    assert rest.finished.choices == whole.finished.choices


def test_an_answer_that_was_complete_ends_at_once() -> None:
    whole = serve(request("a", "once", max_tokens=4))
    trial = Trial()
    (answer,) = trial.serve(request("a", "once", max_tokens=4, generated=(whole.tokens(),)))
    assert not trial.calls
    assert answer.finished.choices == whole.finished.choices


def test_what_cannot_have_been_generated_is_refused() -> None:
    for said in ((EOS, 1), (999,), tuple(range(600))):
        answer = serve(request("a", "once", max_tokens=None, generated=(said,)))
        assert answer.failed.code in ("invalid_request", "invalid_token")
    with pytest.raises(InvalidRequest, match="by choice"):
        request("a", "once", choices=2, generated=((1,),))
