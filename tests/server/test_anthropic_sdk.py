"""Anthropic's own SDK against a real server of samovar-mini."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic

from samovar.config import ServerConfig, WorkerConfig
from tests.server.conftest import mini
from tests.server.serving import PATIENCE, serving

Json = Any  # whatever a client sends or gets

MODEL = "samovar-mini"
COW = [{"role": "user", "content": "What does a cow say?"}]
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The city"}},
        "required": ["city"],
    },
}
PROBLEM = "Tom has four apples. Mia gives him three more. How many apples does Tom have?"


@pytest.fixture
def client(server: str) -> Iterator[Anthropic]:
    with Anthropic(base_url=server, api_key="any", max_retries=0) as opened:
        yield opened


def ask(client: Anthropic, messages: Json, **more: Json) -> anthropic.types.Message:
    fields = {"model": MODEL, "max_tokens": 60, "extra_body": {"temperature": 0}}
    found: anthropic.types.Message = client.messages.create(messages=messages, **fields | more)
    return found


def said(message: anthropic.types.Message) -> list[dict[str, Json]]:
    """Its blocks, without what the SDK adds and without ids."""
    return [
        {name: value for name, value in block.to_dict().items() if name not in _OF_THE_SDK}
        for block in message.content
    ]


_OF_THE_SDK = ("id", "parsed_output")


def total(usage: Json) -> int:
    return int(
        usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
    )


# ---- answers ------------------------------------------------------------------------------------


def test_an_answer_in_one_piece(client: Anthropic) -> None:
    message = ask(client, COW)
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert message.id.startswith("msg_")
    assert said(message) == [{"type": "text", "text": "A cow says moo."}]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens > 3


def test_a_stream_adds_up_to_the_same_answer(client: Anthropic) -> None:
    whole = ask(client, COW)
    options = {"model": MODEL, "max_tokens": 60, "extra_body": {"temperature": 0}}
    with client.messages.stream(messages=COW, **options) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == "A cow says moo."
    assert said(message) == said(whole)
    assert (message.stop_reason, message.model) == ("end_turn", MODEL)
    assert total(message.usage) == total(whole.usage)
    assert message.usage.output_tokens == whole.usage.output_tokens


def test_asynchronous_clients(server: str) -> None:
    async def both() -> tuple[str, str]:
        async with AsyncAnthropic(base_url=server, api_key="any", max_retries=0) as client:
            options: dict[str, Any] = {"model": MODEL, "max_tokens": 60, "messages": COW}
            greedy = {"temperature": 0}
            whole = await client.messages.create(**options, extra_body=greedy)
            async with client.messages.stream(**options, extra_body=greedy) as stream:
                text = "".join([piece async for piece in stream.text_stream])
        assert whole.content[0].type == "text"
        return whole.content[0].text, text

    assert asyncio.run(both()) == ("A cow says moo.", "A cow says moo.")


def test_max_tokens_and_stop_sequences(client: Anthropic) -> None:
    short = ask(client, COW, max_tokens=2)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 2)
    stopped = ask(client, COW, stop_sequences=["horse", " says"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " says")
    assert said(stopped)[0]["text"] == "A cow"


def test_an_answer_that_was_begun_goes_on(client: Anthropic) -> None:
    message = ask(client, [*COW, {"role": "assistant", "content": "A cow"}])
    assert said(message)[0]["text"] == " says moo."


def test_a_system_prompt_is_heeded(client: Anthropic) -> None:
    system: Any = [{"type": "text", "text": "Answer in capitals."}]
    assert said(ask(client, COW, system=system))[0]["text"] == "A COW SAYS MOO."


def test_answers_of_a_form(client: Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    wanted: Any = {"format": {"type": "json_schema", "schema": schema}}
    asked = [{"role": "user", "content": "Mia is 7 years old."}]
    message = ask(client, asked, output_config=wanted, thinking={"type": "disabled"})
    assert httpx.Response(200, text=said(message)[-1]["text"]).json().keys() == {
        "name",
        "age",
    }


# ---- thinking -----------------------------------------------------------------------------------


def test_thinking_comes_as_signed_blocks(client: Anthropic) -> None:
    asked: Any = [{"role": "user", "content": PROBLEM}]
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    options = {"model": MODEL, "max_tokens": 200, "extra_body": {"temperature": 0}}
    with client.messages.stream(messages=asked, thinking=thinking, **options) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert "thinking" in kinds
    assert "signature" in kinds
    message = ask(client, asked, max_tokens=200, thinking=thinking)
    first, second = message.content
    assert (first.type, second.type) == ("thinking", "text")
    assert first.type == "thinking"
    assert first.thinking
    assert said(streamed) == said(message)
    assert message.usage.output_tokens_details is not None
    assert 0 < message.usage.output_tokens_details.thinking_tokens < message.usage.output_tokens
    plain = ask(client, asked, max_tokens=200, thinking={"type": "disabled"})
    assert [block.type for block in plain.content] == ["text"]


def test_stop_sequences_are_not_looked_for_in_thinking(client: Anthropic) -> None:
    asked: Any = [{"role": "user", "content": PROBLEM}]
    more: Any = {"max_tokens": 200, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    thought, answer = said(ask(client, asked, **more))
    stops = [thought["thinking"].split()[0], answer["text"].split()[-1]]
    message = ask(client, asked, stop_sequences=stops, **more)
    cut = answer["text"].removesuffix(stops[1])
    assert said(message) == [thought, {"type": "text", "text": cut}][: 2 if cut else 1]
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stops[1])


def test_thinking_that_is_omitted_leaves_a_signature(client: Anthropic) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}
    asked: Any = [{"role": "user", "content": PROBLEM}]
    first, second = ask(client, asked, max_tokens=200, thinking=thinking).content
    assert first.type == "thinking"
    assert first.thinking == ""
    assert first.signature
    assert second.type == "text"


def test_thinking_that_comes_back_is_read_if_it_was_signed_here(client: Anthropic) -> None:
    question: Any = [{"role": "user", "content": PROBLEM}]
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    signed = ask(client, question, max_tokens=200, thinking=thinking).content[0].to_dict()
    call = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}

    def count(*blocks: Json) -> int:
        turns: Any = [
            *question,
            {"role": "assistant", "content": [*blocks, call]},
            {"role": "user", "content": [result]},
        ]
        found = client.messages.count_tokens(model=MODEL, messages=turns, tools=[WEATHER])  # type: ignore[list-item]
        return found.input_tokens

    plain = count()
    assert count(signed) > plain + 5
    assert count(signed | {"thinking": "I shall do as I please."}) == plain
    assert count(signed | {"signature": "EqQBCgIYAhIMbm90IGZyb20gaGVyZQ=="}) == plain


# ---- tools --------------------------------------------------------------------------------------


def test_tools_over_two_turns(client: Anthropic) -> None:
    asked: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    tools: Any = [WEATHER]
    message = ask(client, asked, tools=tools)
    call = message.content[-1]
    assert call.type == "tool_use"
    assert (call.name, call.input, message.stop_reason) == (
        "get_weather",
        {"city": "Paris"},
        "tool_use",
    )
    result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"weather": "sunny"}'}
    asked += [message.to_param(), {"role": "user", "content": [result]}]
    answer = ask(client, asked, tools=tools)
    assert answer.stop_reason == "end_turn"
    assert "sunny" in said(answer)[-1]["text"]
    assert answer.usage.cache_read_input_tokens
    counted = client.messages.count_tokens(model=MODEL, messages=asked, tools=tools)
    assert counted.input_tokens == total(answer.usage)


def test_streamed_calls_have_the_same_input(client: Anthropic) -> None:
    asked: Any = [{"role": "user", "content": "How is the weather in London and in Rome?"}]
    tools: Any = [WEATHER]
    whole = ask(client, asked, tools=tools)
    options = {"model": MODEL, "max_tokens": 60, "extra_body": {"temperature": 0}}
    with client.messages.stream(messages=asked, tools=tools, **options) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_message()
    assert "input_json" in kinds
    inputs = [block.input for block in message.content if block.type == "tool_use"]
    assert inputs == [{"city": "London"}, {"city": "Rome"}]
    assert inputs == [block.input for block in whole.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"


def test_choices_of_tools(client: Anthropic) -> None:
    tools: Any = [WEATHER]
    forced = ask(client, COW, tools=tools, tool_choice={"type": "any"})
    assert forced.content[-1].type == "tool_use"
    asked: Any = [{"role": "user", "content": "How is the weather in London and in Rome?"}]
    one: Any = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
    single = ask(client, asked, tools=tools, tool_choice=one)
    assert len([block for block in single.content if block.type == "tool_use"]) == 1
    never = ask(client, asked, tools=tools, tool_choice={"type": "none"})
    assert "tool_use" not in [block.type for block in never.content]


# ---- what it took -------------------------------------------------------------------------------


def test_the_second_turn_reads_what_the_first_left(client: Anthropic) -> None:
    story = "Mia has a red kite. Tom has a blue ball. Anna has a green hat. "
    asked: list[Any] = [{"role": "user", "content": f"{story * 4}What does Tom have?"}]
    first = ask(client, asked)
    counted = client.messages.count_tokens(model=MODEL, messages=asked)
    assert total(first.usage) == counted.input_tokens
    asked += [first.to_param(), {"role": "user", "content": "What does Anna have?"}]
    second = ask(client, asked)
    counted = client.messages.count_tokens(model=MODEL, messages=asked)
    assert total(second.usage) == counted.input_tokens
    assert second.usage.cache_read_input_tokens is not None
    assert second.usage.cache_read_input_tokens >= total(first.usage)
    assert second.usage.cache_creation_input_tokens
    again = ask(client, asked)
    assert again.usage.cache_read_input_tokens == counted.input_tokens - 1
    assert again.usage.cache_creation_input_tokens == 0
    assert again.usage.input_tokens == 1


def test_a_stream_begins_with_what_its_prompt_takes(client: Anthropic) -> None:
    story = "Ida has a pink pen. Paul has a grey goat. Otto has an old oar. "
    asked: list[Any] = [{"role": "user", "content": f"{story * 4}What does Paul have?"}]
    read = []
    for _ in range(2):
        options = {"model": MODEL, "max_tokens": 60, "extra_body": {"temperature": 0}}
        with client.messages.stream(messages=asked, **options) as stream:
            events = list(stream)
            message = stream.get_final_message()
        assert events[0].type == "message_start"
        (last,) = (one for one in events if one.type == "message_delta")
        start, end = events[0].message.usage, last.usage
        for name in (
            "input_tokens",
            "cache_creation_input_tokens",
            "cache_read_input_tokens",
        ):
            assert getattr(start, name) == getattr(end, name) == getattr(message.usage, name)
        counted = client.messages.count_tokens(model=MODEL, messages=asked)
        assert total(start) == counted.input_tokens
        assert start.output_tokens == 0
        read.append(start.cache_read_input_tokens)
        asked += [message.to_param(), {"role": "user", "content": "What does Otto have?"}]
    assert read[1] > read[0]
    assert read[1] > 0


def test_the_line_about_bills_does_not_make_a_prompt_another_one(client: Anthropic) -> None:
    counts = []
    for number in ("1a2b3", "f00ba"):
        line = f"x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch={number};"
        system: Any = [{"type": "text", "text": line}]
        system += [{"type": "text", "text": "You know what animals say and where they live." * 4}]
        usage = ask(client, COW, system=system, max_tokens=1).usage
        counts.append((total(usage), usage.cache_read_input_tokens))
    plain = client.messages.count_tokens(model=MODEL, messages=COW, system=system[1:])
    assert [one[0] for one in counts] == [plain.input_tokens] * 2
    assert counts[1][1] == plain.input_tokens - 1


def test_no_store_and_salts(client: Anthropic) -> None:
    text = "Ben has a small boat and a long rope and a big tent and a warm coat. " * 3
    asked: Any = [{"role": "user", "content": f"{text}What does Ben have?"}]
    kept_out = {"temperature": 0, "no_store": True, "cache_salt": "one"}
    usage = ask(client, asked, extra_body=kept_out).usage
    assert (usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (0, 0)
    assert usage.input_tokens > 32
    kept = ask(client, asked, extra_body={"temperature": 0, "cache_salt": "two"}).usage
    assert kept.cache_read_input_tokens == 0
    assert kept.cache_creation_input_tokens == usage.input_tokens


def test_counting_is_what_a_request_would_take(client: Anthropic) -> None:
    begun: list[Any] = [*COW, {"role": "assistant", "content": "A cow"}]
    thinking: Any = {"type": "disabled"}
    for options in (
        {"messages": COW},
        {"messages": COW, "system": "Be brief."},
        {"messages": COW, "tools": [WEATHER]},
        {"messages": COW, "thinking": thinking},
        {"messages": begun},
    ):
        counted = client.messages.count_tokens(model=MODEL, **options)  # type: ignore[arg-type]
        taken = client.messages.create(model=MODEL, max_tokens=1, **options)  # type: ignore[call-overload]
        assert total(taken.usage) == counted.input_tokens, options


def test_a_client_that_asks_is_told_what_it_changed(client: Anthropic) -> None:
    first = ask(client, COW, diagnostics={"previous_message_id": None})
    assert first.diagnostics is None
    before: Any = {"previous_message_id": first.id}
    turns = [*COW, first.to_param(), {"role": "user", "content": "And a dog?"}]
    assert ask(client, turns, diagnostics=before).diagnostics is None
    options = {"model": MODEL, "max_tokens": 9, "system": "Be brief.", "diagnostics": before}
    with client.messages.stream(messages=turns, **options) as stream:
        changed = stream.get_final_message().diagnostics
    assert changed is not None
    assert changed.to_dict() == {
        "cache_miss_reason": {
            "type": "system_changed",
            "cache_missed_input_tokens": total(first.usage),
        }
    }


def test_a_prompt_can_be_made_warm(client: Anthropic) -> None:
    text = "Lily has a yellow cup and a black cat and a white dog and a brown hen. " * 3
    asked: Any = [{"role": "user", "content": f"{text}What does Lily have?"}]
    warm = ask(client, asked, max_tokens=0)
    assert (warm.content, warm.stop_reason, warm.usage.output_tokens) == ([], "max_tokens", 0)
    assert warm.usage.cache_creation_input_tokens
    assert warm.usage.input_tokens == 0
    assert ask(client, asked, max_tokens=1).usage.cache_read_input_tokens == total(warm.usage) - 1


# ---- failures -----------------------------------------------------------------------------------


def test_an_unknown_model_is_told_which_there_are(client: Anthropic) -> None:
    for stream in (False, True):
        with pytest.raises(anthropic.NotFoundError) as caught:
            client.messages.create(
                model="claude-of-tomorrow", max_tokens=9, messages=COW, stream=stream
            )
        assert caught.value.type == "not_found_error"
        assert MODEL in caught.value.message
        assert caught.value.request_id
        assert caught.value.request_id == caught.value.body["request_id"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": 9}, "temperature"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "images are not read"),
        ({"stop_sequences": [""]}, "stop string"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "Anthropic's own"),
    ],
)
def test_requests_that_are_wrong(client: Anthropic, wrong: Json, message: str) -> None:
    for stream in (False, True):
        with pytest.raises(anthropic.BadRequestError, match=message) as caught:
            ask(client, COW, extra_body=wrong, stream=stream)
        assert caught.value.type == "invalid_request_error"
        assert caught.value.request_id


def test_prompts_that_are_too_long(client: Anthropic) -> None:
    asked: Any = [{"role": "user", "content": "What does a cow say? " * 600}]
    for stream in (False, True):
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long: ") as caught:
            ask(client, asked, stream=stream)
        assert caught.value.type == "invalid_request_error"


def test_there_are_no_batches(client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="there are no batches"):
        client.messages.batches.list()
    with pytest.raises(anthropic.NotFoundError, match="there are no batches"):
        client.messages.batches.retrieve("msgbatch_1")


def test_models_are_listed(client: Anthropic) -> None:
    assert [one.id for one in client.models.list(limit=1)] == [MODEL]
    assert client.models.retrieve(MODEL).max_input_tokens == 2048
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("claude-of-tomorrow")


# ---- the wire -----------------------------------------------------------------------------------


def test_headers_are_not_asked_for(server: str) -> None:
    fields = {"model": MODEL, "max_tokens": 2, "messages": COW}
    url = f"{server}/v1/messages?beta=true"
    answered = httpx.post(url, json=fields | {"temprature": 0}, timeout=60)
    assert answered.status_code == 200
    assert answered.headers["x-samovar-ignored"] == "temprature"
    beta = {"anthropic-version": "1999-01-01", "anthropic-beta": "of-long-ago"}
    assert httpx.post(f"{server}/v1/messages", json=fields, headers=beta, timeout=60).is_success


def test_what_agents_report_of_their_use_goes_nowhere(server: str) -> None:
    answered = httpx.post(
        f"{server}/api/event_logging/batch", json={"events": []}, timeout=PATIENCE
    )
    assert (answered.status_code, answered.content) == (204, b"")


def test_the_beta_client_is_served_too(client: Anthropic) -> None:
    message = client.beta.messages.create(
        model=MODEL,
        max_tokens=9,
        messages=COW,  # type: ignore[arg-type]
        betas=["context-management-2025-06-27"],
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        extra_body={"temperature": 0},
    )
    assert said(message)[0]["text"] == "A cow says moo."


KEYS = """
[[keys]]
name = "one"
key = "sk-0123456789abcdef"
requests_per_minute = 1
[[keys]]
name = "other"
key = "sk-fedcba9876543210"
"""


def test_keys_and_limits(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    config = ServerConfig(port=0, keys_file=keys, max_body_bytes=10_000)

    def client(**key: str) -> Anthropic:
        return Anthropic(base_url=url, max_retries=0, **key)  # type: ignore[arg-type]

    with serving([mini(tmp_path)], config) as url:
        with client(api_key="sk-wrong") as stranger, pytest.raises(anthropic.AuthenticationError):
            ask(stranger, COW)
        with client(auth_token="sk-0123456789abcdef") as one:
            with pytest.raises(anthropic.NotFoundError):
                ask(one, COW, model="none")
            with pytest.raises(anthropic.RateLimitError) as limited:
                ask(one, COW)
        large: Any = [{"role": "user", "content": "a" * 10_000}]
        with client(api_key="sk-fedcba9876543210") as other:
            with pytest.raises(anthropic.ContentTooLargeError) as refused:
                ask(other, large)
            assert ask(other, COW, max_tokens=1).type == "message"
    assert limited.value.type == "rate_limit_error"
    assert limited.value.response.headers["retry-after"]
    assert refused.value.response.json()["error"]["type"] == "request_too_large"


LONG: Json = {
    "type": "json_schema",
    "schema": {"type": "array", "items": {"type": "boolean"}, "minItems": 500},
}
"""An answer that cannot end before some seconds have passed."""


def begun(client: Anthropic) -> anthropic.Stream[anthropic.types.RawMessageStreamEvent]:
    """A stream of a long answer, of which something has come."""
    asked: Any = [{"role": "user", "content": "Name many."}]
    options: Json = {"output_config": {"format": LONG}, "thinking": {"type": "disabled"}}
    stream = client.messages.create(
        model=MODEL, max_tokens=1500, messages=asked, stream=True, **options
    )
    assert next(iter(stream)).type == "message_start"
    return stream


def counted(server: str, line: str) -> float:
    """A value of the server's metrics."""
    text = httpx.get(f"{server}/metrics", timeout=PATIENCE).text
    return sum(float(one.split()[-1]) for one in text.splitlines() if one.startswith(line))


def test_a_client_that_leaves_ends_its_request(server: str, client: Anthropic) -> None:
    line = f'samovar_requests_total{{model="{MODEL}",outcome="cancelled"}}'
    before = counted(server, line)
    begun(client).close()
    deadline = time.monotonic() + PATIENCE
    while counted(server, line) == before or counted(server, "samovar_requests_running"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert counted(server, line) == before + 1


def test_a_full_server_is_overloaded(tmp_path: Path) -> None:
    full = replace(mini(tmp_path), worker=WorkerConfig(threads=1, num_sequences=1, max_waiting=0))
    with (
        serving([full]) as url,
        Anthropic(base_url=url, api_key="any", max_retries=0) as client,
        begun(client),
        pytest.raises(anthropic.OverloadedError) as caught,
    ):
        ask(client, COW)
    assert (caught.value.status_code, caught.value.type) == (529, "overloaded_error")
    assert int(caught.value.response.headers["retry-after"]) >= 1
