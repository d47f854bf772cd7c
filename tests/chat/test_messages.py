from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.chat.messages import MAX_DEPTH, plain_messages, plain_tools, plain_variables
from samovar.errors import InvalidRequest

USER = {"role": "user", "content": "hello"}


def call(**function: object) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}
    return plain_messages([message])[0]["tool_calls"][0]


def test_messages_are_copied() -> None:
    part = {"type": "text", "text": "hello"}
    messages = [{"role": "user", "content": [part]}]
    plain = plain_messages(messages)
    plain[0]["content"][0]["text"] = "changed"
    assert part["text"] == "hello"


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "hello",
        {"role": "user", "content": "hello"},
        ["hello"],
        [{"content": "hello"}],
        [{"role": "", "content": "hello"}],
        [{"role": 1, "content": "hello"}],
        [{"role": "user"}],
        [{"role": "user", "content": 7}],
        [{"role": "user", "content": {"text": "hello"}}],
        [{"role": "user", "content": [7]}],
        [{"role": "user", "content": [{"text": "hello"}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "text", "text": 7}]}],
        [{"role": "user", "content": "hello", 7: "seven"}],
        [{"role": "user", "content": "hello", "extra": float("nan")}],
        [{"role": "user", "content": "hello", "extra": 1 << 20_000}],
        [{"role": "user", "content": "hello", "extra": b"bytes"}],
        [{"role": "assistant", "content": "", "tool_calls": {}}],
        [{"role": "assistant", "content": "", "tool_calls": ["get_weather"]}],
        [{"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}],
    ],
)
def test_malformed_messages_are_invalid_requests(messages: object) -> None:
    with pytest.raises(InvalidRequest):
        plain_messages(messages)


def test_the_error_names_the_place_and_not_the_text() -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[1\]\.content must be text") as error:
        plain_messages([USER, {"role": "user", "content": {"secret": "plan"}}])
    assert "secret" not in str(error.value)


def test_nesting_beyond_reason_is_refused() -> None:
    deep: Any = "core"
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="nested"):
        plain_messages([{**USER, "extra": deep}])


def test_absent_content_becomes_text() -> None:
    assert plain_messages([{"role": "user", "content": None}])[0]["content"] == ""


def test_absent_content_of_a_tool_call_stays_absent() -> None:
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "now"}}]}
    assert plain_messages([message])[0]["content"] is None


def test_nulls_are_left_out() -> None:
    message = {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": None}
    assert plain_messages([message]) == [{"role": "assistant", "content": "hi"}]


def test_an_empty_list_of_tool_calls_is_left_out() -> None:
    message = {"role": "assistant", "content": "hi", "tool_calls": []}
    assert "tool_calls" not in plain_messages([message])[0]


def test_bare_strings_among_parts_are_text_parts() -> None:
    plain = plain_messages([{"role": "user", "content": ["hello"]}])
    assert plain[0]["content"] == [{"type": "text", "text": "hello"}]


def test_arguments_as_text_become_an_object() -> None:
    assert call(name="f", arguments='{"x": 1}')["function"]["arguments"] == {"x": 1}


@pytest.mark.parametrize("arguments", [None, "", {}])
def test_absent_arguments_are_an_empty_object(arguments: object) -> None:
    assert call(name="f", arguments=arguments)["function"]["arguments"] == {}


@pytest.mark.parametrize("arguments", ["{broken", "[1]", '"text"', "[" * 100_000, '{"x": NaN}'])
def test_arguments_that_are_no_object_stay_text(arguments: str) -> None:
    assert call(name="f", arguments=arguments)["function"]["arguments"] == arguments


def test_a_flat_tool_call_is_wrapped() -> None:
    message = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}
    plain = plain_messages([message])[0]["tool_calls"][0]
    assert plain == {"type": "function", "function": {"name": "f", "arguments": {}}}


def test_half_a_surrogate_pair_is_replaced() -> None:
    text = json.loads(r'"\ud83d\ude00 \ud83d"')
    assert plain_messages([{"role": "user", "content": text}])[0]["content"] == "😀 \ufffd"


def test_no_tools_are_none() -> None:
    assert plain_tools(None) is None
    assert plain_tools([]) is None


def test_a_flat_tool_is_wrapped_and_given_parameters() -> None:
    assert plain_tools([{"name": "now", "description": None}]) == [
        {
            "type": "function",
            "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
        }
    ]


def test_a_tool_of_the_responses_api_is_wrapped() -> None:
    tool = {"type": "function", "name": "now", "parameters": {}}
    function = {"name": "now", "parameters": {}}
    assert plain_tools([tool]) == [{"type": "function", "function": function}]


@pytest.mark.parametrize("tools", ["now", {}, ["now"], [{}], [{"function": {"name": 7}}]])
def test_malformed_tools_are_invalid_requests(tools: object) -> None:
    with pytest.raises(InvalidRequest):
        plain_tools(tools)


@pytest.mark.parametrize(
    "variables", [[], {"messages": []}, {"bos_token": ""}, {"self": 1}, {"a b": 1}, {"_x": 1}]
)
def test_variables_may_not_replace_what_the_request_sets(variables: object) -> None:
    with pytest.raises(InvalidRequest):
        plain_variables(variables)


def test_variables_are_copied() -> None:
    documents = [{"title": "Visby"}]
    assert plain_variables({"documents": documents})["documents"] is not documents


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("content"), inner),
    max_leaves=8,
)
CALLS = st.lists(st.dictionaries(st.sampled_from(["name", "function", "id", "arguments"]), JSON))
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"])},
    optional={"content": JSON, "tool_calls": CALLS | JSON},
)


@settings(max_examples=50)
@given(JSON | st.lists(MESSAGES | JSON))
def test_any_json_is_refused_or_settles_at_once(messages: object) -> None:
    try:
        plain = plain_messages(messages)
    except InvalidRequest:
        return
    assert plain_messages(plain) == plain
