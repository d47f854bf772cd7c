"""The Responses API through OpenAI's own client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

MODEL = "samovar-mini"
FACT = "Tell me what yellow is."
PROBLEM = (
    "Ada has 13 keys. Then Ada gets 1 from Julia and finds 7 more. How many keys does Ada have now?"
)
TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "get_time",
        "description": "Get the time in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
        "strict": None,
    },
    {
        "type": "function",
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
        "strict": None,
    },
]


@pytest.fixture
def client(server: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as one:
        yield one


def ask(client: OpenAI, given: object = FACT, **more: Any) -> Any:  # noqa: ANN401
    return client.responses.create(model=MODEL, input=given, temperature=0, **more)


def test_a_question_has_an_answer(client: OpenAI) -> None:
    said = ask(client, instructions="Be brief.", metadata={"a": "b"}, max_output_tokens=50)
    assert said.output_text
    assert said.status == "completed"
    assert said.object == "response"
    assert said.model == MODEL
    assert said.instructions == "Be brief."
    assert said.metadata == {"a": "b"}
    assert said.completed_at
    assert said.completed_at >= said.created_at
    usage = said.usage
    assert usage is not None
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    Response.model_validate(said.to_dict())


def test_a_stream_says_the_same_in_typed_events(client: OpenAI) -> None:
    known: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    whole = ask(client)
    events = list(ask(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for event in events:
        known.validate_python(event.to_dict())
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text == events[-1].response.output_text
    assert len(deltas) > 1


def test_what_was_read_before_is_told_as_cached(client: OpenAI) -> None:
    ask(client)
    usage = ask(client).usage
    assert usage is not None
    assert 0 < usage.input_tokens_details.cached_tokens <= usage.input_tokens


def test_the_streaming_helper_gives_the_final_response(client: OpenAI) -> None:
    with client.responses.stream(model=MODEL, input=FACT, temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert final.output_text == ask(client).output_text


class Offer(BaseModel):
    item: str
    count: int


def test_an_answer_is_parsed_by_a_model_of_pydantic(client: OpenAI) -> None:
    text = "I see a ball. There are 6 in the shop."
    said = client.responses.parse(model=MODEL, input=text, text_format=Offer, temperature=0)
    assert isinstance(said.output_parsed, Offer)
    with client.responses.stream(
        model=MODEL, input=text, text_format=Offer, temperature=0
    ) as stream:
        assert stream.get_final_response().output_parsed == said.output_parsed


def test_a_json_object_is_one(client: OpenAI) -> None:
    said = ask(client, text={"format": {"type": "json_object"}}, max_output_tokens=200)
    assert said.output_text.startswith("{")
    assert said.text is not None
    assert said.text.format is not None
    assert said.text.format.type == "json_object"


def test_reasoning_is_an_item_of_its_own(client: OpenAI) -> None:
    said = ask(client, PROBLEM, reasoning={"effort": "high", "summary": "auto"})
    assert [item.type for item in said.output] == ["reasoning", "message"]
    thought = said.output[0]
    assert thought.type == "reasoning"
    assert thought.content
    assert "14 + 7 = 21" in thought.content[0].text
    assert thought.summary[0].text == thought.content[0].text
    assert said.usage is not None
    assert 0 < said.usage.output_tokens_details.reasoning_tokens < said.usage.output_tokens
    assert "21" in said.output_text
    assert "think" not in said.output_text


def test_reasoning_comes_as_deltas_before_the_text(client: OpenAI) -> None:
    events = list(ask(client, PROBLEM, stream=True))
    kinds = [event.type for event in events]
    assert "response.reasoning_text.delta" in kinds
    assert "response.reasoning_summary_text.delta" not in kinds
    assert kinds.index("response.reasoning_text.done") < kinds.index("response.output_text.delta")


# ---- tools ---------------------------------------------------------------------------------------


def test_a_call_goes_round_with_the_items_themselves(client: OpenAI) -> None:
    given: list[Any] = [{"role": "user", "content": "How late is it in Oslo?"}]
    first = ask(client, given, tools=TOOLS)
    call = first.output[-1]
    assert call.type == "function_call"
    assert (call.name, call.arguments.replace(" ", "")) == ("get_time", '{"city":"Oslo"}')
    answered = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": '{"time": "17:54"}',
    }
    said = ask(client, [*given, *first.output, answered], tools=TOOLS)
    assert "17:54" in said.output_text


def test_a_call_goes_round_with_the_previous_response(client: OpenAI) -> None:
    first = ask(client, "How late is it in Oslo?", tools=TOOLS)
    call = first.output[-1]
    assert call.type == "function_call"
    answered = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": [{"type": "input_text", "text": '{"time": "17:54"}'}],
    }
    said = ask(client, [answered], previous_response_id=first.id, tools=TOOLS)
    assert "17:54" in said.output_text
    assert said.previous_response_id == first.id


def test_a_call_that_is_demanded_comes_as_deltas(client: OpenAI) -> None:
    choice: Any = {"type": "function", "name": "get_weather"}
    events = list(ask(client, "Hello!", tools=TOOLS, tool_choice=choice, stream=True))
    (done,) = [one for one in events if one.type == "response.function_call_arguments.done"]
    deltas = [one for one in events if one.type == "response.function_call_arguments.delta"]
    assert "".join(one.delta for one in deltas) == done.arguments
    final = events[-1].response
    assert [item.type for item in final.output if item.type != "reasoning"] == ["function_call"]
    assert final.output[-1].name == "get_weather"
    assert final.output[-1].arguments == done.arguments
    assert final.tool_choice.name == "get_weather"


def test_the_tools_of_an_agent_are_offered_as_far_as_they_can_be(client: OpenAI) -> None:
    tools: list[Any] = [
        {"type": "namespace", "name": "clock", "description": "Clocks.", "tools": [TOOLS[0]]},
        {"type": "custom", "name": "note", "description": "Write something down."},
        {"type": "web_search"},
    ]
    raw = client.responses.with_raw_response.create(
        model=MODEL,
        input="How late is it in Oslo?",
        tools=tools,
        tool_choice={"type": "function", "name": "clock__get_time"},
        temperature=0,
    )
    assert raw.headers["X-Samovar-Ignored"] == "tools[2].web_search"
    first = raw.parse()
    call = first.output[-1]
    assert call.type == "function_call"
    assert (call.namespace, call.name) == ("clock", "get_time")
    answered = {"type": "function_call_output", "call_id": call.call_id, "output": "17:54"}
    second = ask(
        client,
        [answered],
        previous_response_id=first.id,
        tools=tools,
        tool_choice={"type": "custom", "name": "note"},
        max_output_tokens=200,
    )
    noted = second.output[-1]
    assert (noted.type, noted.name) == ("custom_tool_call", "note")
    answered = {"type": "custom_tool_call_output", "call_id": noted.call_id, "output": "noted"}
    third = ask(client, [answered], previous_response_id=second.id, max_output_tokens=20)
    kept = client.responses.input_items.list(third.id, order="asc").data
    assert [item.type for item in kept if item.type != "reasoning"] == [
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
    ]


# ---- limits, probabilities, failures -------------------------------------------------------------


def test_what_is_cut_off_is_incomplete(client: OpenAI) -> None:
    said = ask(client, max_output_tokens=2)
    assert said.status == "incomplete"
    assert said.incomplete_details is not None
    assert said.incomplete_details.reason == "max_output_tokens"
    assert said.usage is not None
    assert said.usage.output_tokens == 2


def test_log_probabilities_spell_the_text(client: OpenAI) -> None:
    said = ask(client, include=["message.output_text.logprobs"], top_logprobs=2)
    (message,) = said.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.logprobs
    assert b"".join(bytes(one.bytes) for one in part.logprobs).decode() == part.text
    assert all(len(one.top_logprobs) == 2 for one in part.logprobs)


def test_a_seed_draws_the_same_again(client: OpenAI) -> None:
    def drawn(seed: int) -> str:
        said = client.responses.create(
            model=MODEL,
            input="Tell me a story.",
            temperature=1.5,
            max_output_tokens=30,
            extra_body={"seed": seed, "top_k": 0, "min_p": 0},
        )
        return said.output_text

    assert drawn(1) == drawn(1) != drawn(2)


def test_errors_have_the_classes_of_the_client(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="gone", input="Hi")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, tools=[{"type": "web_search"}])
    assert refused.value.param == "tools[0].type"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, max_output_tokens="many")
    assert refused.value.param == "max_output_tokens"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "no"}}})
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, previous_response_id="resp_gone")
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, conversation="conv_1")
    assert refused.value.param == "conversation"


def test_what_is_too_long_is_refused_or_cut(client: OpenAI) -> None:
    turns: list[Any] = []
    for number in range(120):
        turns.append({"role": "user", "content": f"Call me Beva, the {number}th of her name."})
        turns.append({"role": "assistant", "content": "Hello, Beva! It is nice to meet you."})
    given = [*turns, {"role": "user", "content": FACT}]
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, given)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        ask(client, given, stream=True)
    said = ask(client, given, truncation="auto", max_output_tokens=20)
    assert said.output_text
    assert said.usage is not None
    assert 1000 < said.usage.input_tokens < 2048


def test_fields_that_nobody_knows_are_told(server: str) -> None:
    body = {"model": MODEL, "input": FACT, "temprature": 0, "max_output_tokens": 1}
    said = httpx.post(f"{server}/v1/responses", json=body, timeout=60)
    assert said.status_code == 200
    assert said.headers["X-Samovar-Ignored"] == "temprature"


def test_input_is_counted_as_it_would_be_read(client: OpenAI) -> None:
    counted = client.responses.input_tokens.count(
        model=MODEL, input=FACT, instructions="Be brief.", tools=TOOLS
    )
    usage = ask(client, instructions="Be brief.", tools=TOOLS, max_output_tokens=1).usage
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == usage.input_tokens
