"""Chat completions over a real socket, through OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from tests.server.openai_clients import MODEL, QUESTION, answer_of, client_of
from tests.server.serving import PATIENCE

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
ASKED: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with client_of(server) as made:
        yield made


def greedy(client: openai.OpenAI, messages: Any = QUESTION, **more: Any) -> Any:  # noqa: ANN401
    given = {"model": MODEL, "temperature": 0, "max_tokens": 48, **more}
    return client.chat.completions.create(messages=messages, **given)


def test_an_answer_streamed_is_the_answer_in_one_piece(client: openai.OpenAI) -> None:
    whole = greedy(client)
    assert whole.object == "chat.completion"
    assert whole.model == MODEL
    assert whole.choices[0].message.role == "assistant"
    assert "Samovar" in whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks: list[ChatCompletionChunk] = list(greedy(client, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert answer_of(chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(one.usage is None for one in chunks)


def test_asynchronous_clients_are_answered_side_by_side(server: str) -> None:
    async def ask(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, max_tokens=20, stream=True
        )
        return answer_of([chunk async for chunk in stream])

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(api_key="x", base_url=f"{server}/v1") as client:
            return await asyncio.gather(*(ask(client) for _ in range(4)))

    answers = asyncio.run(ask_all())
    assert answers[0]
    assert len(set(answers)) == 1


def test_usage_is_told_at_the_end_of_a_stream_and_cached_tokens_in_it(
    client: openai.OpenAI,
) -> None:
    long = [{"role": "user", "content": "Tell me about tea. " * 20}]
    first = greedy(client, long, max_tokens=4)
    stream = greedy(client, long, max_tokens=4, stream=True, stream_options={"include_usage": True})
    *_, last = stream
    assert last.choices == []
    assert last.usage.prompt_tokens == first.usage.prompt_tokens
    assert last.usage.completion_tokens == 4
    assert last.usage.prompt_tokens_details.cached_tokens > 32


def test_a_call_is_made_answered_and_used(client: openai.OpenAI) -> None:
    asked = greedy(client, ASKED, tools=[WEATHER], tool_choice="required")
    assert asked.choices[0].finish_reason == "tool_calls"
    (call,) = asked.choices[0].message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] == "Paris"
    history = [
        *ASKED,
        asked.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "sunny"}'},
    ]
    said = greedy(client, history, tools=[WEATHER], tool_choice="none")
    assert said.choices[0].finish_reason == "stop"
    assert said.choices[0].message.tool_calls is None
    assert said.choices[0].message.content


def test_calls_come_in_pieces_that_the_client_puts_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=ASKED, tools=[WEATHER], tool_choice="required", temperature=0
    ) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.done" in kinds
    assert message.tool_calls is not None
    assert json.loads(message.tool_calls[0].function.arguments)["city"] == "Paris"


def test_functions_of_before_there_were_tools(client: openai.OpenAI) -> None:
    functions = [WEATHER["function"]]
    asked = greedy(client, ASKED, functions=functions, function_call={"name": "get_weather"})
    assert asked.choices[0].finish_reason == "function_call"
    call = asked.choices[0].message.function_call
    assert json.loads(call.arguments)["city"] == "Paris"
    history = [
        *ASKED,
        {"role": "assistant", "content": None, "function_call": call.model_dump()},
        {"role": "function", "name": "get_weather", "content": "sunny"},
    ]
    assert greedy(client, history, functions=functions, function_call="none").choices[0].message


class City(BaseModel):
    """What is asked of a city."""

    name: str
    people: int
    is_capital: bool


def test_an_answer_is_a_model_of_pydantic(client: openai.OpenAI) -> None:
    done = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell me of Paris as JSON."}],
        response_format=City,
        temperature=0,
    )
    assert isinstance(done.choices[0].message.parsed, City)


def test_an_answer_is_json(client: openai.OpenAI) -> None:
    schema = {"type": "array", "items": {"enum": [1, 22]}, "maxItems": 3}
    said = greedy(client, extra_body={"json_schema": schema}).choices[0].message.content
    assert set(json.loads(said)) <= {1, 22}
    said = greedy(client, response_format={"type": "json_object"}).choices[0].message.content
    assert said.startswith("{")


def test_reasoning_is_told_apart_and_can_be_left_out(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "What is two plus three?"}]
    whole = greedy(client, messages)
    message = whole.choices[0].message
    assert message.reasoning_content == message.reasoning != ""
    assert "five" in message.content
    assert whole.usage.completion_tokens_details.reasoning_tokens > 3
    deltas = [one.choices[0].delta for one in greedy(client, messages, stream=True)]
    told = "".join(getattr(one, "reasoning_content", "") for one in deltas)
    assert told == message.reasoning_content
    silent = greedy(client, messages, reasoning_effort="none")
    assert not hasattr(silent.choices[0].message, "reasoning_content")
    assert silent.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"choice": ["tea", "coffee"]}, {"tea", "coffee"}),
        ({"regex": "(ab){2}"}, {"abab"}),
        ({"grammar": 'root ::= "yes" | "no"'}, {"yes", "no"}),
        ({"guided_choice": ["x"]}, {"x"}),
    ],
)
def test_an_answer_is_what_was_allowed(
    client: openai.OpenAI, fields: dict[str, Any], answers: set[str]
) -> None:
    assert greedy(client, extra_body=fields).choices[0].message.content in answers


def test_several_answers_at_once(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"n": 3, "temperature": 1.5, "seed": 5, "max_tokens": 8}
    whole = greedy(client, **given)
    assert [one.index for one in whole.choices] == [0, 1, 2]
    chunks = list(greedy(client, stream=True, **given))
    for choice in whole.choices:
        assert answer_of(chunks, choice.index) == choice.message.content
    alone = greedy(client, **{**given, "n": 1, "seed": 6})
    assert alone.choices[0].message.content == whole.choices[1].message.content


def test_log_probabilities_add_up_to_the_text(client: openai.OpenAI) -> None:
    whole = greedy(client, logprobs=True, top_logprobs=3)
    tokens = whole.choices[0].logprobs.content
    text = bytes(b for one in tokens for b in one.bytes).decode()
    assert text == whole.choices[0].message.content
    for one in tokens:
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].token == one.token
        assert sum(math.exp(top.logprob) for top in one.top_logprobs) <= 1.000001
    chunks = list(greedy(client, stream=True, logprobs=True, top_logprobs=3))
    told = [c.logprobs.content for one in chunks for c in one.choices if c.logprobs]
    assert [one.token for part in told for one in part] == [one.token for one in tokens]


def test_a_bias_forbids_a_token(client: openai.OpenAI) -> None:
    first = greedy(client, logprobs=True, max_tokens=1).choices[0].logprobs.content[0].token
    (token,) = httpx.post(
        f"{client.base_url}tokenize",
        json={"content": first, "add_special": False},
        timeout=PATIENCE,
    ).json()["tokens"]
    other = greedy(client, max_tokens=1, logit_bias={str(token): -100})
    assert other.choices[0].message.content != first


def test_an_answer_stops_where_it_is_told(client: openai.OpenAI) -> None:
    whole = greedy(client).choices[0].message.content
    word = whole.split()[2]
    cut = greedy(client, stop=[word]).choices[0]
    assert cut.message.content == whole[: whole.index(word)]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", word)
    short = greedy(client, max_tokens=None, max_completion_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 2


def test_stop_strings_are_not_looked_for_in_reasoning(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "What is two plus three?"}]
    whole = greedy(client, messages).choices[0].message
    thought, last = whole.reasoning_content.split()[0], whole.content.split()[-1]
    cut = greedy(client, messages, stop=[thought, last]).choices[0]
    assert cut.message.reasoning_content == whole.reasoning_content
    assert cut.message.content == whole.content[: whole.content.index(last)]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", last)


def test_an_answer_goes_on_where_it_was_begun(client: openai.OpenAI) -> None:
    whole = greedy(client).choices[0].message.content
    said, rest = whole.split(",")
    begun = [*QUESTION, {"role": "assistant", "content": f"{said},"}]
    more = greedy(client, begun, extra_body={"continue_final_message": True})
    assert more.choices[0].message.content == rest


def test_who_leaves_a_stream_ends_its_request(client: openai.OpenAI, server: str) -> None:
    before = cancelled(server)
    given: dict[str, Any] = {"stream": True, "max_tokens": 1500, "extra_body": {"ignore_eos": True}}
    for _ in range(6):  # more than there are sequences: each has to be free again
        with greedy(client, **given) as stream:
            assert any(chunk.choices[0].delta.content for chunk in stream)
    with client.completions.create(model=MODEL, prompt=["a", "b", "c"], **given) as parts:
        assert any(chunk.choices[0].text for chunk in parts)
    deadline = time.monotonic() + PATIENCE
    while cancelled(server) < before + 9:
        assert time.monotonic() < deadline, "requests went on that nobody waits for"
    assert greedy(client, max_tokens=2).choices[0].message.content


def cancelled(server: str) -> float:
    """Requests that were cancelled so far."""
    wanted = f'samovar_requests_total{{model="{MODEL}",outcome="cancelled"}} '
    lines = httpx.get(f"{server}/metrics", timeout=PATIENCE).text.splitlines()
    return sum(float(one.removeprefix(wanted)) for one in lines if one.startswith(wanted))


def test_the_only_model_needs_no_name(client: openai.OpenAI) -> None:
    for name in ("", None):
        body = {"model": name, "messages": QUESTION, "max_tokens": 1}
        told = httpx.post(f"{client.base_url}chat/completions", json=body, timeout=PATIENCE).json()
        assert told["model"] == MODEL


def test_a_misspelt_field_is_told(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=1,
        store=False,
        extra_body={"temprature": 0, "frequency_penlty": 1},
    )
    assert raw.headers["x-samovar-ignored"] == "temprature, frequency_penlty"
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=QUESTION, max_tokens=1, stream=True, extra_body={"temprature": 0}
    )
    assert raw.headers["x-samovar-ignored"] == "temprature"
    assert answer_of(list(raw.parse()))


def test_what_was_computed_is_shared_by_salt(client: openai.OpenAI) -> None:
    long = [{"role": "user", "content": "A secret about tea. " * 20}]

    def cached(**body: Any) -> int:  # noqa: ANN401
        took = greedy(client, long, max_tokens=1, extra_body=body).usage
        return int(took.prompt_tokens_details.cached_tokens)

    cached(cache_salt="a")
    assert cached(cache_salt="b") < 16
    assert cached(cache_salt="a") > 64
    assert cached(cache_salt="a", user="somebody") > 64


def test_turns_that_were_generated_here_come_back_as_their_tokens(client: openai.OpenAI) -> None:
    first = greedy(client)
    assert first.samovar["seeds"]
    history = [
        *QUESTION,
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "user", "content": "What is two plus three?"},
    ]
    second = greedy(client, history)
    assert second.samovar["replayed"]["replayed"] == [1]
    computed = second.timings["prompt_n"]
    assert computed + second.timings["cache_n"] == second.usage.prompt_tokens
    plain = greedy(client, history, extra_body={"replays": False})
    assert not plain.samovar.get("replayed", {}).get("replayed")
    assert plain.choices[0].message.content == second.choices[0].message.content
