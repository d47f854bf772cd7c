"""Completions over a real socket, through OpenAI's own client."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from samovar.config import WorkerConfig
from samovar.server.served import ServedModel
from tests.conftest import Models
from tests.server.openai_clients import MODEL, client_of
from tests.server.serving import serving

ONCE = "Once upon a time"


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with client_of(server) as made:
        yield made


def greedy(client: openai.OpenAI, prompt: Any = ONCE, **more: Any) -> Any:  # noqa: ANN401
    given = {"model": MODEL, "temperature": 0, "max_tokens": 8, **more}
    return client.completions.create(prompt=prompt, **given)


def tokens_of(client: openai.OpenAI, text: str) -> list[int]:
    path = "/tokenize"
    found: list[int] = client.post(path, body={"content": text}, cast_to=dict[str, Any])["tokens"]
    return found


def test_a_completion_streamed_is_the_completion_in_one_piece(client: openai.OpenAI) -> None:
    whole = greedy(client)
    assert whole.object == "text_completion"
    assert whole.choices[0].text
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 8
    chunks = list(greedy(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.text for one in chunks for choice in one.choices)
    assert text == whole.choices[0].text
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert chunks[-2].choices[0].finish_reason == "length"


def test_text_and_its_tokens_are_the_same_prompt(client: openai.OpenAI) -> None:
    tokens = tokens_of(client, ONCE)
    whole = greedy(client, tokens)
    assert whole.choices[0].text == greedy(client).choices[0].text
    assert whole.usage.prompt_tokens == len(tokens)


@pytest.mark.parametrize("is_text", [True, False])
def test_several_prompts_are_answered_in_their_places(
    client: openai.OpenAI, is_text: object
) -> None:
    texts = [ONCE, "The fox", "Tom has"]
    prompts = texts if is_text else [tokens_of(client, one) for one in texts]
    given: dict[str, Any] = {"n": 2, "temperature": 1, "seed": 3}
    whole = greedy(client, prompts, **given)
    assert [one.index for one in whole.choices] == list(range(6))
    for number, prompt in enumerate(prompts):
        alone = greedy(client, prompt, **given)
        here = whole.choices[2 * number : 2 * number + 2]
        assert [one.text for one in alone.choices] == [one.text for one in here]
    told = [""] * 6
    for chunk in greedy(client, prompts, stream=True, **given):
        for choice in chunk.choices:
            told[choice.index] += choice.text
    assert told == [one.text for one in whole.choices]


def test_more_prompts_than_run_at_once(client: openai.OpenAI) -> None:
    whole = greedy(client, [f"Number {i}" for i in range(20)], max_tokens=2)
    assert [one.index for one in whole.choices] == list(range(20))
    assert whole.usage.completion_tokens == 40


@pytest.mark.parametrize("is_text", [True, False])
def test_the_prompt_is_said_again_where_that_is_asked_for(
    client: openai.OpenAI, is_text: object
) -> None:
    prompt = ONCE if is_text else tokens_of(client, ONCE)
    plain = greedy(client, prompt).choices[0].text
    assert greedy(client, prompt, echo=True).choices[0].text == ONCE + plain
    chunks = greedy(client, prompt, echo=True, stream=True)
    assert "".join(c.text for one in chunks for c in one.choices) == ONCE + plain


def test_nothing_but_the_prompt(client: openai.OpenAI) -> None:
    whole = greedy(client, echo=True, max_tokens=0)
    assert whole.choices[0].text == ONCE
    assert whole.usage.completion_tokens == 0


def test_log_probabilities_in_the_older_form(client: openai.OpenAI) -> None:
    whole = greedy(client, logprobs=2)
    told = whole.choices[0].logprobs
    assert "".join(told.tokens) == whole.choices[0].text
    starts = [len("".join(told.tokens[:i])) for i in range(len(told.tokens))]
    assert told.text_offset == starts
    for token, value, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert top[token] == value == max(top.values())
        assert len(top) == 2
    chunks = [one for one in greedy(client, logprobs=2, stream=True) if one.choices[0].logprobs]
    assert [token for one in chunks for token in one.choices[0].logprobs.tokens] == told.tokens
    assert [at for one in chunks for at in one.choices[0].logprobs.text_offset] == starts


def scores_of(choice: Any) -> list[Any]:  # noqa: ANN401
    told = choice.logprobs
    lists = (told.tokens, told.token_logprobs, told.top_logprobs, told.text_offset)
    return list(zip(*lists, strict=True))


def test_what_was_generated_is_scored_alike_as_a_prompt(client: openai.OpenAI) -> None:
    told = greedy(client, logprobs=3).choices[0]
    whole = ONCE + told.text
    asked = greedy(client, whole, logprobs=3, echo=True, max_tokens=0)
    (choice,) = asked.choices
    assert (choice.text, asked.usage.completion_tokens) == (whole, 0)
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.tokens[-len(told.logprobs.tokens) :] == told.logprobs.tokens
    for now, then in zip(scores_of(choice)[-8:], scores_of(told), strict=True):
        assert now[1] == pytest.approx(then[1], abs=1e-3)
        assert now[2].keys() == then[2].keys()
        assert now[3] == len(ONCE) + then[3]


@pytest.mark.parametrize("text", [ONCE, "Caf\u00e9 \u6f22\u5b57 \U0001f600, zo\u00eb!", "x"])
@pytest.mark.parametrize("is_text", [True, False])
def test_a_prompt_with_scores_comes_with_the_text_and_in_a_stream(
    client: openai.OpenAI, text: str, is_text: object
) -> None:
    tokens = tokens_of(client, text)
    prompt = text if is_text else tokens
    more: dict[str, Any] = {"logprobs": 1, "echo": True, "n": 2, "temperature": 1, "seed": 2}
    whole = greedy(client, prompt, **more)
    assert whole.usage.prompt_tokens == len(tokens)
    told: list[list[Any]] = [[], []]
    texts = ["", ""]
    for chunk in greedy(client, prompt, stream=True, **more):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.logprobs:
                tops = choice.logprobs.top_logprobs or [None] * len(choice.logprobs.tokens)
                choice.logprobs.top_logprobs = tops
                told[choice.index] += scores_of(choice)
    assert texts == [one.text for one in whole.choices]
    for choice, streamed in zip(whole.choices, told, strict=True):
        found = scores_of(choice)
        assert [(one[0], one[3]) for one in found] == [(one[0], one[3]) for one in streamed]
        assert [one[1] is None for one in found] == [True] + [False] * (len(found) - 1)
        for one, other in zip(found[1:], streamed[1:], strict=True):
            assert one[1] == pytest.approx(other[1], abs=1e-3)
        assert choice.text.startswith(text)
        assert len(found) >= len(tokens) + 1
        for token, _, _, at in found:
            assert "\ufffd" in token or choice.text[at : at + len(token)] == token


def test_continuations_are_weighed_as_harnesses_do(client: openai.OpenAI) -> None:
    """Contexts and continuations as ids; one token is generated, and is left out of the sum."""
    pairs = [(ONCE, " upon"), ("The cat sat", " on the mat"), (ONCE, ", there was")]
    ids = [(tokens_of(client, a), tokens_of(client, a + b)) for a, b in pairs]
    prompts = [whole for _, whole in ids]
    answer = greedy(client, prompts, max_tokens=1, logprobs=1, echo=True, seed=1234)
    for (context, whole), choice in zip(ids, answer.choices, strict=True):
        scores = choice.logprobs.token_logprobs[len(context) : -1]
        tops = choice.logprobs.top_logprobs[len(context) : -1]
        assert len(scores) == len(tops) == len(whole) - len(context)
        assert all(value <= max(top.values()) <= 0 for value, top in zip(scores, tops, strict=True))


def test_a_long_prompt_with_scores_does_not_fit_as_without(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        greedy(client, "long " * 4000, echo=True, logprobs=1)
    assert caught.value.code == "context_length_exceeded"


def test_the_best_of_some_is_told(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"temperature": 1.5, "seed": 11, "logprobs": 0}
    every = greedy(client, n=4, **given)
    means = [
        math.fsum(one.logprobs.token_logprobs) / len(one.logprobs.token_logprobs)
        for one in every.choices
    ]
    best = greedy(client, best_of=4, n=1, temperature=1.5, seed=11)
    (choice,) = best.choices
    assert choice.text == every.choices[means.index(max(means))].text
    assert choice.logprobs is None
    assert best.usage.completion_tokens == every.usage.completion_tokens


def test_a_grammar_holds_for_plain_prompts_too(client: openai.OpenAI) -> None:
    assert greedy(client, extra_body={"regex": "(ab){3}"}).choices[0].text == "ababab"


def test_a_bad_token_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        greedy(client, [1, 2**31])
    assert caught.value.code == "invalid_token"


def test_one_of_several_that_fails_fails_all(client: openai.OpenAI) -> None:
    for is_streamed in (True, False):
        with pytest.raises(openai.APIError):
            list(greedy(client, ["fine", "long " * 4000, "fine"], stream=is_streamed))
    assert greedy(client).choices


def test_who_cannot_fill_in_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        greedy(client, "def f():", suffix="return 1")
    assert caught.value.code == "operation_unsupported"


def test_a_session_goes_on(client: openai.OpenAI) -> None:
    body = {"session_id": "one", "no_store": True}
    first = greedy(client, extra_body=body)
    second = greedy(client, f"{ONCE}{first.choices[0].text} and", extra_body=body)
    assert second.usage.prompt_tokens_details.cached_tokens > 4


def test_what_is_missing_is_asked_for_as_the_model_was_trained(
    models: Models, tmp_path: Path
) -> None:
    path = tmp_path / "coder.gguf"
    marks = {"fim_pre": 300, "fim_suf": 301, "fim_mid": 302}
    options = [text for name in marks for text in ("--special-token-by-id", name, str(marks[name]))]
    command = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--force", *options]
    plain = models("llama", vocab="spm")  # whose texts begin with BOS
    subprocess.run([*command, plain, path], check=True, capture_output=True, timeout=60)
    worker = WorkerConfig(threads=1, context_length=256)
    with serving([ServedModel("coder", str(path), worker, None)]) as url, client_of(url) as client:
        before, after = "def f(x):", "return y"
        start, *ahead = tokens_of(client, before)
        behind = tokens_of(client, after)[1:]
        filled = greedy(client, before, suffix=after, model="coder").choices[0].text
        marked = [start, 300, *ahead, 301, *behind, 302]
        assert filled == greedy(client, marked, model="coder").choices[0].text
        assert filled != greedy(client, before, model="coder").choices[0].text
