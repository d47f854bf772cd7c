"""Bodies of the Responses API: what is asked by them, and what is refused."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseItemList
from pydantic import ValidationError

from samovar.api.openai.checks import BadField
from samovar.api.openai.responses.decode import Asked, Setting, decode
from samovar.api.openai.responses.listing import page_of
from samovar.api.openai.responses.output import sealed
from samovar.api.openai.responses.prompt import messages_of, shorter
from samovar.api.openai.responses.schema import ResponsesBody
from samovar.api.openai.responses.turn import Turn
from samovar.errors import InvalidRequest
from samovar.types import (
    Choice,
    Event,
    Finished,
    Grammar,
    Message,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from tests.conftest import scaled

Json = dict[str, Any]

TOOL = {
    "type": "function",
    "name": "look",
    "description": "Look.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    "strict": True,
}
KEPT = {"msg_kept": {"id": "msg_kept", "type": "message", "role": "user", "content": []}}


def setting(earlier: tuple[Json, ...] = ()) -> Setting:
    numbers = itertools.count()
    new_id = lambda prefix: f"{prefix}{next(numbers)}"  # noqa: E731
    return Setting("resp_1", "m", "tenant", 100, new_id, KEPT.get, earlier)


def asked(earlier: tuple[Json, ...] = (), **body: object) -> Asked:
    return decode(ResponsesBody.model_validate({"input": "Hi", **body}), setting(earlier))


def messages(*items: Json, **body: object) -> tuple[Message, ...]:
    chat = asked(input=list(items), **body).request.chat
    assert chat is not None
    return chat.messages


def call(call_id: str = "c1", name: str = "look", arguments: str = '{"at": "a"}') -> Json:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def result(call_id: str = "c1", output: object = "seen") -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def wire_call(call_id: str = "c1", name: str = "look", arguments: str = '{"at": "a"}') -> Json:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


# ---- input ---------------------------------------------------------------------------------------


def test_text_is_what_a_user_says() -> None:
    one = asked(input="Hi")
    assert one.request.chat is not None
    assert one.request.chat.messages == ({"role": "user", "content": "Hi"},)
    assert one.context == (
        {
            "id": "msg_0",
            "type": "message",
            "role": "user",
            "status": "completed",
            "content": [{"type": "input_text", "text": "Hi"}],
        },
    )


def test_instructions_and_the_first_system_messages_are_one() -> None:
    said = messages(
        {"role": "developer", "content": "Be kind."},
        {"role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"role": "user", "content": "Hi"},
        {"role": "developer", "content": "Now rhyme."},
        instructions="Be wise.",
    )
    assert said == (
        {"role": "system", "content": "Be wise.\n\nBe kind.\n\nBe brief."},
        {"role": "user", "content": "Hi"},
        {"role": "developer", "content": "Now rhyme."},
    )


def test_what_the_model_said_in_one_go_is_one_message() -> None:
    said = messages(
        {"role": "user", "content": "Hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [reasoning("Hm")]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        call("c1"),
        call("c2"),
        result("c1"),
        result("c2", [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]),
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So"}]},
        {"role": "assistant", "content": "Done."},
    )
    assert said == (
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "reasoning_content": "Hm",
            "content": "Let me see.",
            "tool_calls": [wire_call("c1"), wire_call("c2")],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "look", "content": "seen"},
        {"role": "tool", "tool_call_id": "c2", "name": "look", "content": "a\nb"},
        {"role": "assistant", "reasoning_content": "So", "content": "Done."},
    )


def reasoning(text: str) -> Json:
    return {"type": "reasoning_text", "text": text}


def test_calls_alone_have_no_content_and_text_behind_calls_is_another_message() -> None:
    said = messages(
        {"role": "user", "content": "Hi"}, call(), {"role": "assistant", "content": "x"}
    )
    assert said[1:] == (
        {"role": "assistant", "content": None, "tool_calls": [wire_call()]},
        {"role": "assistant", "content": "x"},
    )


def test_sealed_reasoning_is_read_where_nothing_else_came_back() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed("Hm")}
    said = messages({"role": "user", "content": "Hi"}, item, {"role": "assistant", "content": "x"})
    assert said[1] == {"role": "assistant", "reasoning_content": "Hm", "content": "x"}
    foreign = {**item, "encrypted_content": "gAAAA"}
    said = messages({"role": "user", "content": "Hi"}, foreign)
    assert len(said) == 1


def test_references_are_the_items_that_are_kept() -> None:
    given = [{"type": "item_reference", "id": "msg_kept"}, {"id": "msg_kept"}]
    assert asked(input=given).context == (KEPT["msg_kept"],) * 2
    with pytest.raises(InvalidRequest, match=r"input\[0\] refers to an item"):
        asked(input=[{"id": "msg_gone"}])


def test_items_keep_their_ids_and_lose_what_a_client_adds() -> None:
    given = {**call(), "id": "fc_9", "parsed_arguments": {"at": "a"}, "status": None}
    (item,) = asked(input=[given]).context
    assert item == {**call(), "id": "fc_9", "status": "completed"}


def test_what_was_answered_comes_before_what_is_sent() -> None:
    earlier = asked(input="One").context
    one = asked(earlier, input="Two")
    assert [item["content"][0]["text"] for item in one.context] == ["One", "Two"]
    chat = asked(earlier, input=[]).request.chat
    assert chat is not None
    assert chat.messages == ({"role": "user", "content": "One"},)


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([1], r"input\[0\] must be an object"),
        ([{"type": "web_search_call", "id": "ws_1"}], r"input\[0\] is of a type"),
        ([{"role": "tool", "content": "x"}], r"input\[0\]\.role"),
        ([{"role": "user"}], r"input\[0\]\.content"),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}],
            r"input\[0\]\.content\[0\] is no text",
        ),
        ([{"type": "function_call", "call_id": "c", "name": "f"}], r"input\[0\]\.arguments"),
        ([result("c9")], "answers a call that is not in the conversation"),
        ([], "input: it is empty"),
        (None, "input: it is needed"),
    ],
)
def test_input_that_cannot_be_read_says_where(items: object, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        asked(input=items)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "id", "call_id", "output", "text", "name", "summary"]
            ),
            inner
            | st.sampled_from(
                ["message", "user", "assistant", "reasoning", "input_text", "refusal"]
            )
            | st.sampled_from(["function_call", "function_call_output", "item_reference"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(json_values)
@settings(max_examples=scaled(150, 5000), deadline=None)
def test_any_input_is_decoded_or_refused(value: object) -> None:
    try:
        one = asked(input=value)
    except (InvalidRequest, ValidationError):
        return
    ResponseItemList.model_validate(json.loads(page_of(one.context, None, 100, newest_first=False)))


# ---- everything else -----------------------------------------------------------------------------


def test_fields_become_what_they_mean() -> None:
    one = asked(
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        seed=3,
        max_output_tokens=12,
        stop=["X"],
        tools=[TOOL],
        parallel_tool_calls=False,
        reasoning={"effort": "high", "summary": "auto"},
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
        metadata={"a": "b"},
        stream=True,
        truncation="auto",
        store=False,
    )
    request, chat = one.request, one.request.chat
    assert chat is not None
    assert (request.max_tokens, request.stop, request.tenant) == (12, ("X",), "tenant")
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.seed, sampling.logprobs) == (3, 2)
    function = {name: TOOL[name] for name in ("name", "description", "parameters")}
    assert chat.tools == ({"type": "function", "function": function},)
    assert chat.tool_choice == ToolChoice("auto", is_parallel=False)
    assert (chat.thinks, chat.variables) == (True, {"reasoning_effort": "high"})
    assert (one.is_streamed, one.is_kept, one.truncates) == (True, False, True)
    head = one.head
    assert (head.has_summary, head.is_sealed, head.has_logprobs) == (True, True, True)
    assert head.echo["tools"] == [TOOL]
    assert head.echo["metadata"] == {"a": "b"}
    assert head.echo["max_output_tokens"] == 12
    assert head.echo["model"] == "m"


def test_nothing_said_is_what_the_model_does_by_itself() -> None:
    one = asked()
    assert one.request.chat is not None
    assert one.request.chat.thinks is None
    assert one.request.max_tokens is None
    assert one.request.sampling.logprobs is None
    assert (one.is_streamed, one.is_kept, one.is_background, one.truncates) == (
        False,
        True,
        False,
        False,
    )


def test_effort_none_is_no_reasoning() -> None:
    chat = asked(reasoning={"effort": "none"}).request.chat
    assert chat is not None
    assert (chat.thinks, chat.variables) == (False, {})


@pytest.mark.parametrize(
    ("choice", "expected", "left"),
    [
        ("none", ToolChoice("none"), ["look", "go"]),
        ("required", ToolChoice("required"), ["look", "go"]),
        ({"type": "function", "name": "go"}, ToolChoice("required", "go"), ["look", "go"]),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "go"}],
            },
            ToolChoice("required"),
            ["go"],
        ),
    ],
)
def test_choices_among_tools(choice: object, expected: ToolChoice, left: list[str]) -> None:
    nested = {"type": "function", "function": {"name": "go"}}
    chat = asked(tools=[TOOL, nested], tool_choice=choice).request.chat
    assert chat is not None
    assert chat.tool_choice == expected
    assert [tool["function"]["name"] for tool in chat.tools] == left
    assert asked(tools=[TOOL, nested], tool_choice=choice).head.echo["tool_choice"] == choice


@pytest.mark.parametrize(
    ("given_format", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar("json_object")),
        (
            {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
            Grammar("json_schema", '{"type":"object"}'),
        ),
    ],
)
def test_formats_of_text(given_format: Json, expected: Grammar | None) -> None:
    one = asked(text={"format": given_format, "verbosity": "low"})
    assert one.request.sampling.grammar == expected
    told = one.head.echo["text"]
    assert isinstance(told, dict)
    assert given_format.items() <= told["format"].items()
    assert told["verbosity"] == "low"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom"}]}, "tools[0].function.name"),
        ({"tools": [{"type": "mystery"}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "function"}]}, "tools[1].function.name"),
        ({"tools": [{"type": "namespace", "tools": []}]}, "tools[0].name"),
        (
            {"tools": [{"type": "namespace", "name": "n", "tools": [{}]}]},
            "tools[0].tools[0].function.name",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"tool_choice": {"type": "function", "name": "gone"}}, "tool_choice.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_object"}}, "regex": "a"}, "text.format"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": -1e9}, "temperature"),
        ({"background": True, "store": False}, "background"),
        ({"n": 2}, "n"),
    ],
)
def test_what_cannot_be_done_names_its_field(body: Json, param: str) -> None:
    with pytest.raises(BadField) as refused:
        asked(**body)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"a": 1}},
        {"metadata": {str(i): "" for i in range(17)}},
        {"tool_choice": {"type": "web_search"}},
        {"top_logprobs": 21},
        {"truncation": "middle"},
        {"reasoning": {"effort": "extreme"}},
    ],
)
def test_values_that_are_not_known_are_refused(body: Json) -> None:
    with pytest.raises(ValidationError):
        asked(**body)


def test_functions_of_namespaces_are_called_by_their_full_names() -> None:
    group = {"type": "namespace", "name": "mcp__files__", "description": "Files.", "tools": [TOOL]}
    one = asked(tools=[group, TOOL])
    chat = one.request.chat
    assert chat is not None
    assert [tool["function"]["name"] for tool in chat.tools] == ["mcp__files__look", "look"]
    assert one.head.echo["tools"] == [group, TOOL]
    assert [call["namespace"] for call in called(one, "mcp__files__look")] == ["mcp__files__"]
    assert ["namespace" in call for call in called(one, "look")] == [False]
    item = {**call(), "namespace": "mcp__files__"}
    said = messages({"role": "user", "content": "Hi"}, item, result())
    assert said[1]["tool_calls"] == [wire_call(name="mcp__files__look")]
    assert said[2]["name"] == "mcp__files__look"


def called(one: Asked, name: str) -> list[Json]:
    numbers = itertools.count()
    turn = Turn(one.head, lambda prefix: f"{prefix}{next(numbers)}", lambda: 0)
    turn.feed(ToolCallDelta("r", 0, name, "{}", ()))
    assert [item["name"] for item in turn.output()] == ["look"]
    return turn.output()


def test_tools_that_cannot_be_run_are_left_out_beside_others() -> None:
    one = asked(tools=[TOOL, {"type": "web_search", "external_web_access": False}])
    assert one.left_out == ("tools[1].web_search",)
    assert one.request.chat is not None
    assert len(one.request.chat.tools) == 1
    assert one.head.echo["tools"] == [TOOL]


PATCH = {
    "type": "custom",
    "name": "patch",
    "description": "Change files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /a+/"},
}


def test_a_custom_tool_is_a_function_of_one_text() -> None:
    one = asked(tools=[PATCH])
    assert one.request.chat is not None
    (tool,) = one.request.chat.tools
    assert tool["function"]["name"] == "patch"
    assert list(tool["function"]["parameters"]["properties"]) == ["input"]
    told = "Change files.\nThe input follows this grammar (lark):\nstart: /a+/"
    assert tool["function"]["description"] == told
    item = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": 'a "b"'}
    output = {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}
    said = messages({"role": "user", "content": "Hi"}, item, output)
    (call_of,) = said[1]["tool_calls"]
    assert json.loads(call_of["function"]["arguments"]) == {"input": 'a "b"'}
    assert said[2] == {"role": "tool", "tool_call_id": "c1", "name": "patch", "content": "done"}


# ---- going on ------------------------------------------------------------------------------------


def test_what_comes_out_goes_in_again_as_the_same_turn() -> None:
    numbers = itertools.count()
    turn = Turn(asked().head, lambda prefix: f"{prefix}{next(numbers)}", lambda: 0)
    events: list[Event] = [
        ReasoningDelta("r", "Hm", ()),
        TextDelta("r", "Let me see.", ()),
        ToolCallDelta("r", 0, "look", '{"at": "a"}', ()),
        Finished("r", (Choice("tool_calls", 0),), Usage(0, 0)),
    ]
    for event in events:
        turn.feed(event)
    output = turn.output()
    sent_back = asked(input=[{"role": "user", "content": "Hi"}, *output]).context
    kept = (*asked(input="Hi").context, *output)
    assert messages_of(None, sent_back) == messages_of(None, kept)
    calls = [wire_call(output[2]["call_id"])]
    assert messages_of(None, kept)[1] == {
        "role": "assistant",
        "reasoning_content": "Hm",
        "content": "Let me see.",
        "tool_calls": calls,
    }


roles = st.lists(st.sampled_from(["user", "assistant", "tool"]), max_size=30)


@given(st.lists(st.sampled_from(["system", "developer"]), max_size=2), roles)
@settings(max_examples=scaled(100, 2000), deadline=None)
def test_what_is_too_long_loses_whole_turns_until_one_is_left(
    above: list[str], below: list[str]
) -> None:
    whole = tuple({"role": role, "content": str(i)} for i, role in enumerate(above + below))
    count = len(above)
    left: tuple[Message, ...] | None = whole
    lengths = []
    while left is not None:
        lengths.append(len(left))
        assert left[:count] == whole[:count]
        rest = left[count:]
        assert rest == whole[len(whole) - len(rest) :]
        assert rest == whole[count:] or rest[0]["role"] == "user"
        left = shorter(left)
    assert lengths == sorted(set(lengths), reverse=True)


def test_pages_go_through_all_items_in_either_order() -> None:
    items = [{"id": f"msg_{i}", "type": "message"} for i in range(5)]
    for newest_first in (True, False):
        seen: list[str] = []
        after = None
        while True:
            page = json.loads(page_of(items, after, 2, newest_first=newest_first))
            seen += [item["id"] for item in page["data"]]
            assert (page["first_id"], page["last_id"]) == (seen[-len(page["data"])], seen[-1])
            if not page["has_more"]:
                break
            after = page["last_id"]
        expected = [item["id"] for item in items]
        assert seen == (expected[::-1] if newest_first else expected)
    with pytest.raises(BadField):
        page_of(items, "msg_9", 2, newest_first=True)
