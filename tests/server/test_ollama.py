"""Ollama's own client against a server: text."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ollama import AsyncClient, ChatResponse, Client, GenerateResponse, ResponseError
from pydantic import BaseModel

from samovar.api.ollama.requests import MAX_NAME, ChatBody, GenerateBody
from samovar.api.ollama.vectors import EmbedBody
from tests.conftest import scaled
from tests.server.serving import PATIENCE

MODEL = "samovar-mini"
EXACT = {"temperature": 0, "num_predict": 24}
QUESTION = [{"role": "user", "content": "What is the colour of the sky?"}]


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with_pool = Client(host=server)
    yield with_pool
    with_pool.close()


def assert_adds_up(answer: ChatResponse | GenerateResponse) -> None:
    assert answer.done
    for name in ("total", "load", "prompt_eval", "eval"):
        assert getattr(answer, f"{name}_duration") >= 0
    parts = answer.load_duration + answer.prompt_eval_duration + answer.eval_duration
    assert answer.total_duration >= parts > 0
    assert answer.prompt_eval_count > 0
    assert answer.eval_count > 0


# ---- chat ----------------------------------------------------------------------------------------


def test_a_chat_streamed_and_not(client: Client) -> None:
    whole = client.chat(MODEL, QUESTION, options=EXACT)
    assert whole.model == MODEL
    assert whole.message.role == "assistant"
    assert whole.message.content
    assert whole.done_reason in ("stop", "length")
    assert_adds_up(whole)
    parts = list(client.chat(MODEL, QUESTION, options=EXACT, stream=True))
    assert "".join(one.message.content or "" for one in parts) == whole.message.content
    assert [one.done for one in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) > 3
    assert_adds_up(parts[-1])
    assert parts[-1].prompt_eval_count == whole.prompt_eval_count  # cached tokens count
    assert parts[-1].eval_count == whole.eval_count


def test_a_chat_on_an_event_loop(server: str) -> None:
    async def main() -> None:
        client = AsyncClient(host=server)
        whole = await client.chat(MODEL, QUESTION, options=EXACT)
        parts = [
            one async for one in await client.chat(MODEL, QUESTION, options=EXACT, stream=True)
        ]
        assert "".join(one.message.content or "" for one in parts) == whole.message.content
        assert_adds_up(whole)
        listed = await client.list()
        assert [one.model for one in listed.models] == [MODEL]
        await client.close()

    asyncio.run(main())


def test_the_name_may_have_a_tag(client: Client) -> None:
    answer = client.chat(f"{MODEL}:latest", QUESTION, options=EXACT)
    assert answer.model == f"{MODEL}:latest"
    assert answer.message.content
    with pytest.raises(ResponseError) as caught:
        client.chat(f"{MODEL}:7b", QUESTION)
    assert caught.value.status_code == 404


def test_where_it_ends(client: Client) -> None:
    short = client.chat(MODEL, QUESTION, options={**EXACT, "num_predict": 2})
    assert (short.done_reason, short.eval_count) == ("length", 2)
    whole = client.chat(MODEL, QUESTION, options=EXACT).message.content or ""
    stop = whole.split()[1]
    cut = client.chat(MODEL, QUESTION, options={**EXACT, "stop": [stop]})
    assert cut.message.content == whole[: whole.index(stop)]
    assert cut.done_reason == "stop"


def test_a_seed_makes_it_repeatable(client: Client) -> None:
    options = {"temperature": 1.5, "seed": 5, "num_predict": 12}
    texts = {client.chat(MODEL, QUESTION, options=options).message.content for _ in range(2)}
    assert len(texts) == 1


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: Where.

    Returns:
        The weather.
    """
    return f"It is sunny in {city}."


def test_a_round_with_a_tool(client: Client) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    answer = client.chat(MODEL, messages, tools=[weather], options=EXACT, think=False)
    assert answer.message.tool_calls
    (made,) = answer.message.tool_calls
    assert made.function.name == "weather"
    assert answer.done_reason == "stop"
    messages += [
        answer.message,
        {"role": "tool", "tool_name": "weather", "content": weather(**made.function.arguments)},
    ]
    final = client.chat(MODEL, messages, tools=[weather], options=EXACT, think=False)
    assert final.message.content
    assert not final.message.tool_calls
    assert final.prompt_eval_count is not None
    assert final.prompt_eval_count > (answer.prompt_eval_count or 0)


def test_a_call_in_a_stream_comes_as_a_whole(client: Client) -> None:
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    parts = list(
        client.chat(MODEL, messages, tools=[weather], options=EXACT, think=False, stream=True)
    )
    calls = [call for one in parts for call in one.message.tool_calls or ()]
    assert [one.function.name for one in calls] == ["weather"]
    assert isinstance(calls[0].function.arguments, Mapping)
    assert "tool_call" not in "".join(one.message.content or "" for one in parts)


def test_thinking(client: Client) -> None:
    question = [{"role": "user", "content": "What is two plus two?"}]
    without = client.chat(MODEL, question, options=EXACT, think=False).message
    assert without.thinking is None
    assert without.content
    for level in (True, "low"):
        answer = client.chat(MODEL, question, options=EXACT, think=level).message
        assert answer.thinking
        assert answer.content
        assert "think" not in answer.content
    parts = list(client.chat(MODEL, question, options=EXACT, think=True, stream=True))
    assert "".join(one.message.thinking or "" for one in parts) == answer.thinking
    assert "".join(one.message.content or "" for one in parts) == answer.content
    generated = client.generate(MODEL, "What is two plus two?", options=EXACT, think=True)
    assert (generated.thinking, generated.response) == (answer.thinking, answer.content)
    assert client.chat(MODEL, [*question, answer, *QUESTION], options=EXACT).message.content


def test_stops_are_not_looked_for_in_thinking(client: Client) -> None:
    question = [{"role": "user", "content": "What is two plus two?"}]
    whole = client.chat(MODEL, question, options=EXACT, think=True).message
    stops = [(whole.thinking or "").split()[0], (whole.content or "").split()[-1]]
    cut = client.chat(MODEL, question, options={**EXACT, "stop": stops}, think=True)
    assert cut.message.thinking == whole.thinking
    assert cut.message.content == (whole.content or "").removesuffix(stops[1])
    assert cut.done_reason == "stop"


class Colour(BaseModel):
    """What is asked for."""

    name: str
    is_dark: bool


def test_an_answer_of_a_schema(client: Client) -> None:
    options = {"temperature": 0, "num_predict": 200}
    answer = client.chat(
        MODEL, QUESTION, format=Colour.model_json_schema(), options=options, think=False
    )
    assert answer.done_reason == "stop"
    Colour.model_validate_json(answer.message.content or "")


def test_an_answer_of_json(client: Client) -> None:
    answer = client.chat(
        MODEL, QUESTION, format="json", options={"temperature": 0, "num_predict": 200}, think=False
    )
    text = answer.message.content or ""
    assert text.lstrip().startswith("{")
    if answer.done_reason == "stop":
        json.loads(text)


def test_logprobs(client: Client) -> None:
    answer = client.chat(MODEL, QUESTION, options=EXACT, logprobs=True, top_logprobs=2)
    assert answer.logprobs is not None
    assert "".join(one.token for one in answer.logprobs).startswith(answer.message.content or "-")
    for one in answer.logprobs:
        assert one.logprob <= 0
        assert one.top_logprobs is not None
        assert len(one.top_logprobs) == 2


# ---- generate ------------------------------------------------------------------------------------


def test_a_text_streamed_and_not(client: Client) -> None:
    whole = client.generate(MODEL, "What is the colour of the sky?", options=EXACT)
    assert whole.response == client.chat(MODEL, QUESTION, options=EXACT).message.content
    assert_adds_up(whole)
    parts = list(
        client.generate(MODEL, "What is the colour of the sky?", options=EXACT, stream=True)
    )
    assert "".join(one.response or "" for one in parts) == whole.response
    assert parts[-1].context == whole.context


def test_a_system_message(client: Client) -> None:
    plain = client.generate(MODEL, "Hello", options=EXACT)
    told = client.generate(MODEL, "Hello", system="You are a bear.", options=EXACT)
    assert (told.prompt_eval_count or 0) > (plain.prompt_eval_count or 0)


def test_raw_prompts_hold_their_own_markers(client: Client) -> None:
    prompt = "<|im_start|>user\nWhat is the colour of the sky?<|im_end|>\n<|im_start|>assistant\n"
    raw = client.generate(MODEL, prompt, raw=True, options=EXACT)
    whole = client.generate(MODEL, "What is the colour of the sky?", options=EXACT)
    assert raw.prompt_eval_count == whole.prompt_eval_count
    assert raw.response == whole.response
    assert raw.context is None


def test_a_context_goes_on(client: Client) -> None:
    first = client.generate(MODEL, "My cat is called Tom.", options=EXACT)
    assert first.context is not None
    assert len(first.context) == (first.prompt_eval_count or 0) + (first.eval_count or 0)
    second = client.generate(MODEL, "Hello", context=first.context, options=EXACT)
    assert (second.prompt_eval_count or 0) > len(first.context)
    assert second.context is not None
    assert list(second.context[: len(first.context)]) == list(first.context)


def test_a_context_of_tokens_that_are_none(client: Client) -> None:
    with pytest.raises(ResponseError) as caught:
        client.generate(MODEL, "Hello", context=[10**6], options=EXACT)
    assert caught.value.status_code == 400


# ---- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "named"),
    [
        ({"model": "nobody"}, 404, "samovar-mini"),
        ({"model": "x" * (MAX_NAME + 1)}, 400, "model"),
        ({"options": {"temperature": -1}}, 400, "temperature"),
        ({"options": {"seed": 2**64}}, 400, "seed"),
        ({"format": "xml"}, 400, "format"),
        ({"format": {"type": "nothing"}}, 400, "schema"),
        ({"think": "much"}, 400, "think"),
        ({"keep_alive": "soon"}, 400, "keep_alive"),
        ({"messages": [{"role": "user", "content": "?", "images": ["aGk="]}]}, 400, "images"),
        ({"messages": [{"content": "?"}]}, 400, "role"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 4000}]}, 400, "token"),
        ({"tools": [{"type": "function", "function": {}}]}, 400, "name"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_wrong_is_said(
    server: str, fields: dict[str, Any], status: int, named: str, *, stream: bool
) -> None:
    body = {"model": MODEL, "messages": QUESTION, "stream": stream, **fields}
    answer = httpx.post(f"{server}/api/chat", json=body, timeout=60)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert named in answer.json()["error"]
    assert "word word" not in answer.text


@pytest.mark.parametrize(
    ("fields", "status", "named"),
    [
        ({"template": "{{ .Prompt }}"}, 400, "template"),
        ({"suffix": "end"}, 400, "fill in"),
        ({"raw": True, "system": "x"}, 400, "raw"),
        ({"images": ["aGk="]}, 400, "images"),
        ({"context": [-1]}, 400, "context"),
    ],
)
def test_what_cannot_be_generated(
    server: str, fields: dict[str, Any], status: int, named: str
) -> None:
    body = {"model": MODEL, "prompt": "Hello", **fields}
    answer = httpx.post(f"{server}/api/generate", json=body, timeout=60)
    assert (answer.status_code, named in answer.json()["error"]) == (status, True)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
BODIES = (ChatBody, GenerateBody, EmbedBody)
LEFT_ALONE = {"model", "options", "stream", "keep_alive"}
"""How long the model stays as well: others use it."""
FIELDS = st.sampled_from(
    sorted({"verbose"}.union(*(one.model_fields for one in BODIES)) - LEFT_ALONE)
)


@pytest.mark.parametrize("route", ["chat", "generate", "embed", "embeddings", "show"])
def test_bodies_of_any_shape_are_answered_or_refused(server: str, route: str) -> None:
    limited = {"model": MODEL, "stream": False, "options": {"num_predict": 1}}
    usual = {"messages": QUESTION, "prompt": "Hello", "input": "Hello"}

    @given(st.dictionaries(FIELDS, JSON, min_size=1, max_size=3))
    @settings(
        max_examples=scaled(25, 300),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def answered(fields: dict[str, Any]) -> None:
        answer = http.post(f"{server}/api/{route}", json={**usual, **fields, **limited})
        assert answer.status_code < 500, answer.text
        assert (answer.status_code == 200) != ("error" in answer.json())

    with httpx.Client(timeout=60) as http:
        answered()


def test_the_client_raises_what_it_is_told(client: Client) -> None:
    for streamed in (True, False):
        with pytest.raises(ResponseError, match="images") as caught:
            list(client.generate(MODEL, "?", images=["aGk="], stream=streamed))
        assert caught.value.status_code == 400


def test_what_is_ignored_is_told(server: str) -> None:
    options = {**EXACT, "num_gpu": 4, "num_ctx": 10**6}
    body = {"model": MODEL, "prompt": "Hello", "stream": False, "options": options}
    told = httpx.post(f"{server}/api/generate", json=body, timeout=60).json()["warnings"]
    assert ["num_gpu" in told[0], "num_ctx" in told[1], len(told)] == [True, True, 2]


def test_clients_that_send_json_as_a_form(server: str) -> None:
    body = json.dumps({"model": MODEL, "prompt": "Hello", "options": EXACT, "stream": False})
    answer = httpx.post(
        f"{server}/api/generate",
        content=body,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        timeout=60,
    )
    assert answer.json()["done"]


def test_lines_of_a_stream(server: str) -> None:
    body = {"model": MODEL, "prompt": "Hello", "options": EXACT}
    with httpx.stream("POST", f"{server}/api/generate", json=body, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert all(set(one) >= {"model", "created_at", "response", "done"} for one in lines)


def test_who_leaves_is_not_answered_any_more(server: str, client: Client) -> None:
    def open_requests() -> int:
        state = httpx.get(f"{server}/ready", timeout=PATIENCE).json()["models"][MODEL]
        return int(state["open_requests"])

    endless = {"type": "array", "items": {"type": "integer"}, "minItems": 500}
    parts = client.generate(MODEL, "Count.", format=endless, think=False, stream=True)
    assert next(parts).response
    assert open_requests() == 1
    parts.close()
    deadline = time.monotonic() + PATIENCE
    while open_requests():
        assert time.monotonic() < deadline
