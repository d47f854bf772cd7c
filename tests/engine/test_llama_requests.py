"""What can be asked of a real model: stops, lengths, forbidden ends, scores, warm prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from samovar.types import GenerateRequest, Grammar, SamplingParams
from tests.conftest import GENERATING_KINDS, Models
from tests.engine.builders import Answer, Trial, request
from tests.engine.test_llama_texts import (
    LAYOUTS,
    agreed,
    alone,
    noise,
    opened,
    serving,
)
from tests.native.test_backend import logits_of, prompt, put

pytestmark = pytest.mark.native

PROMPT = prompt(30, 5)


@pytest.fixture
def trial(models: Models) -> Iterator[Trial]:
    with serving(models("llama")) as made:
        yield made


def ask(models: Models, kind: str = "llama", **more: object) -> Answer:
    """The answer of a request that is alone on a fresh engine."""
    with serving(models(kind)) as trial:
        more = {"max_tokens": 16} | more
        [answer] = trial.serve(request("a", PROMPT, **more))
        return answer


def pieces(models: Models, answer: Answer) -> list[str]:
    with opened(models("llama")) as backend:
        return [backend.detokenize([token]).decode() for token in answer.tokens()]


# ---- ends ---------------------------------------------------------------------------------------


def test_a_stop_string_split_over_tokens_ends_the_text_before_it(models: Models) -> None:
    whole = ask(models)
    parts = pieces(models, whole)
    assert "".join(parts) == whole.text()
    for at in range(3, 9):
        stop = parts[at][-1] + parts[at + 1][:2]
        found = whole.text().index(stop)
        answer = ask(models, stop=("no such text", stop))
        assert answer.text() == whole.text()[:found]
        assert answer.said().reason == "stop"
        assert answer.said().stop == stop
        assert answer.tokens() == whole.tokens()[: len(answer.tokens())]


def test_no_delta_shows_the_beginning_of_what_turns_out_to_be_a_stop_string(
    models: Models,
) -> None:
    whole = ask(models)
    stop = whole.text()[4:20]
    answer = ask(models, stop=(stop,))
    assert answer.text() == whole.text()[:4]
    shown = ""
    for delta in answer.deltas:
        shown += delta.text
        assert whole.text()[:4].startswith(shown)


def test_a_stop_token_ends_the_text_and_is_named(models: Models) -> None:
    whole = ask(models)
    stop = whole.tokens()[5]
    first = whole.tokens().index(stop)
    answer = ask(models, stop_tokens=(stop,))
    assert answer.tokens() == whole.tokens()[: first + 1]
    assert answer.text() == "".join(pieces(models, whole)[:first])
    assert (answer.said().reason, answer.said().stop) == ("stop", stop)


def test_an_answer_has_as_many_tokens_as_were_asked_for_at_most(models: Models) -> None:
    whole = ask(models)
    for count in (1, 2, 7):
        answer = ask(models, max_tokens=count)
        assert answer.tokens() == whole.tokens()[:count]
        assert answer.said().reason == "length"


def test_the_end_of_generation_is_forbidden_as_long_as_was_asked_for(models: Models) -> None:
    with opened(models("llama")) as backend:
        [end, *_] = backend.vocabulary.eog_tokens
    eager = {"logit_bias": {end: 1000.0}}
    assert ask(models, sampling=SamplingParams(**eager)).tokens() == (end,)
    held = ask(models, sampling=SamplingParams(**eager, min_tokens=5))
    assert len(held.tokens()) == 6
    assert held.tokens()[-1] == end
    assert held.said().reason == "stop"
    never = ask(models, sampling=SamplingParams(**eager, ignore_eos=True))
    assert end not in never.tokens()
    assert never.said().reason == "length"


def test_an_end_that_was_generated_is_part_of_the_session_and_not_of_the_text(
    models: Models,
) -> None:
    with serving(models("llama")) as trial:
        [end, *_] = trial.backend.vocabulary.eog_tokens
        eager = SamplingParams(logit_bias={end: 1000.0}, min_tokens=3)
        [answer] = trial.serve(request("a", PROMPT, sampling=eager, session="s"))
        assert trial.engine.sessions.tokens("s") == [*PROMPT, *answer.tokens()]
        assert answer.tokens()[-1] == end
        assert answer.text() == "".join(pieces(models, answer)[:3])
        after = request("b", (7, 8), session="s", continues=True, max_tokens=2)
        [answer] = trial.serve(after)
        assert answer.finished.usage.cached.live == len(PROMPT) + 3


# ---- scores -------------------------------------------------------------------------------------


def test_scores_are_those_of_the_logits_that_were_drawn_from(models: Models) -> None:
    answer = ask(models, sampling=SamplingParams(temperature=0.9, seed=3, top_k=5, logprobs=4))
    scores = [score for delta in answer.deltas for score in delta.logprobs]
    assert [score.token for score in scores] == list(answer.tokens())
    with opened(models("llama")) as backend:
        put(backend, 0, PROMPT)
        for score in scores:
            logits = logits_of(backend, 0).astype(np.float64)
            normal = logits - np.logaddexp.reduce(logits)
            likeliest = np.argsort(-logits)[:4]
            assert score.chosen == pytest.approx(normal[score.token], abs=0.1)
            assert [token for token, _ in score.top] == likeliest.tolist()
            assert [value for _, value in score.top] == pytest.approx(normal[likeliest], abs=0.1)
            put(backend, 0, [score.token])


def test_without_a_seed_one_is_drawn_and_told_and_repeats_the_text(models: Models) -> None:
    first = ask(models, sampling=SamplingParams(temperature=1.5))
    [choice] = first.finished.choices
    again = ask(models, sampling=SamplingParams(temperature=1.5, seed=choice.seed))
    assert again.tokens() == first.tokens()
    other = ask(models, sampling=SamplingParams(temperature=1.5))
    assert other.finished.choices[0].seed != choice.seed


# ---- warm prompts -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_a_prompt_that_was_only_computed_is_warm_for_the_next(
    models: Models, kind: str, layout: str
) -> None:
    path = models(kind)
    longer = request("use", (*PROMPT, 9, 10, 11), max_tokens=8, session="s")
    with opened(path, layout=layout) as backend:
        text = alone(backend, longer)
    with serving(path, layout=layout) as trial:
        [warm] = trial.serve(request("warm", PROMPT, prefill_only=True, session="s"))
        assert warm.finished.usage.generated_tokens == 0
        assert warm.finished.choices[0].reason == "stop"
        [answer] = trial.serve(longer)
        assert answer.finished.usage.cached.live == len(PROMPT)
        agreed(answer, text, noise(path))


def test_an_idle_lane_is_warm_for_a_text_that_begins_alike(trial: Trial) -> None:
    trial.serve(request("a", PROMPT))
    [answer] = trial.serve(request("b", (*PROMPT[:25], 9, 9)))
    assert answer.finished.usage.cached.live == 25
    [answer] = trial.serve(request("c", (*PROMPT[:25], 9, 9)))
    assert answer.finished.usage.cached.live == 26


# ---- failures -----------------------------------------------------------------------------------


def good(trial: Trial) -> GenerateRequest:
    asked = request("good", prompt(25, 8), max_tokens=20)
    trial.submit(asked)
    trial.step(3)
    return asked


def require_good(trial: Trial, models: Models, asked: GenerateRequest) -> None:
    with opened(models("llama")) as backend:
        text = alone(backend, asked)
    assert agreed(trial.answers["good"], text, noise(models("llama"))) >= 3


BAD = {
    "an id beyond the vocabulary": (request("bad", (5, 512 * 512)), "invalid_token"),
    "a text that is too long": (request("bad", "word " * 100_000), "context_length_exceeded"),
    "half of a pair": (request("bad", "x\ud800"), "invalid_request"),
    "a bias for what is no token": (
        request("bad", sampling=SamplingParams(logit_bias={10**9: 1.0})),
        "invalid_request",
    ),
    "a grammar that is none": (
        request("bad", sampling=SamplingParams(grammar="root ::= (")),
        "grammar_rejected",
    ),
    "a grammar against all that is allowed": (
        request(
            "bad",
            sampling=SamplingParams(
                grammar='root ::= "x"', logit_bias=dict.fromkeys(range(512), float("-inf"))
            ),
        ),
        "invalid_request",
    ),
    "an adapter without end": (
        request("bad", adapters=(("x", float("inf")),)),
        "invalid_request",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_fails_alone(models: Models, trial: Trial, case: str) -> None:
    bad, code = BAD[case]
    trial.engine.load_adapter("x", str(models.adapter(models("llama"))))
    asked = good(trial)
    trial.submit(bad)
    trial.finish()
    assert trial.answers["bad"].failed.code == code
    require_good(trial, models, asked)


def test_a_request_that_is_late_fails_alone(models: Models, trial: Trial) -> None:
    asked = good(trial)
    trial.submit(request("late", PROMPT, max_tokens=400, timeout_seconds=0.1))
    trial.finish()
    assert trial.answers["late"].failed.code == "deadline_exceeded"
    assert trial.answers["late"].tokens()
    require_good(trial, models, asked)


# ---- constrained --------------------------------------------------------------------------------


def test_a_constrained_answer_obeys_beside_a_free_one(models: Models, trial: Trial) -> None:
    asked = good(trial)
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}
    schema |= {"additionalProperties": False}
    grammar = Grammar("json_schema", json.dumps(schema))
    trial.submit(
        request("bound", PROMPT, max_tokens=200, sampling=SamplingParams(grammar=grammar)),
        request(
            "hot",
            PROMPT,
            max_tokens=200,
            sampling=SamplingParams(grammar=grammar, temperature=1.5, seed=4),
        ),
    )
    trial.finish()
    for name in ("bound", "hot"):
        answer = trial.answers[name]
        assert answer.said().reason == "stop"
        assert isinstance(json.loads(answer.text())["n"], bool)
    require_good(trial, models, asked)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_grammar_leaves_no_choice_about_is_computed_at_once(
    models: Models, layout: str
) -> None:
    """And is in the cells and in the answer like what was drawn (the trial looks every step)."""
    only = "There is nothing else that this could possibly say."
    with serving(models("llama"), layout=layout) as trial:
        sampling = SamplingParams(grammar=Grammar("choice", json.dumps([only])))
        trial.submit(request("free", prompt(25, 8), max_tokens=10))
        bound = request("bound", PROMPT, max_tokens=100, sampling=sampling, session="s")
        [answer] = trial.serve(bound)
        assert answer.text() == only
        assert trial.backend.detokenize(answer.tokens()).decode() == only
        together = [row for rows in trial.calls for row in rows if len(row.tokens) > 1]
        assert any(set(row.tokens) <= set(answer.tokens()) for row in together)
        held = trial.engine.sessions.tokens("s")
        assert held == [*PROMPT, *answer.tokens()]


def test_forced_tokens_stop_at_the_length_that_was_asked_for(trial: Trial) -> None:
    only = "There is nothing else that this could possibly say."
    sampling = SamplingParams(grammar=Grammar("choice", json.dumps([only])))
    asked = request("a", PROMPT, max_tokens=5, sampling=sampling)
    [answer] = trial.serve(asked)
    assert len(answer.tokens()) == 5
    assert answer.said().reason == "length"
    assert only.startswith(answer.text())
    stopped = request("b", PROMPT, max_tokens=90, sampling=sampling, stop=("else",))
    [answer] = trial.serve(stopped)
    assert answer.text() == only[: only.index("else")]
    assert answer.said().stop == "else"
