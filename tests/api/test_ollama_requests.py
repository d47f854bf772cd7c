"""Bodies of Ollama's, and what they become."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from samovar.api.ollama.messages import decode_messages, decode_tools
from samovar.api.ollama.requests import (
    ChatBody,
    GenerateBody,
    chat_request,
    check_generate,
    generate_chat,
    is_only_loading,
    text_request,
)
from samovar.api.ollama.vectors import EmbedBody, embed_request
from samovar.chat.messages import plain_messages, plain_tools
from samovar.errors import InvalidRequest
from samovar.types import Grammar
from tests.conftest import scaled

USER = {"role": "user", "content": "Why?"}


def chat(**fields: Any) -> ChatBody:  # noqa: ANN401
    return ChatBody.model_validate({"model": "m", "messages": [USER], **fields})


def generate(**fields: Any) -> GenerateBody:  # noqa: ANN401
    return GenerateBody.model_validate({"model": "m", "prompt": "Why?", **fields})


# ---- messages ------------------------------------------------------------------------------------

CALL = {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}


def test_a_round_with_a_tool() -> None:
    told = [
        {"role": "System", "content": "Be kind."},
        {"role": "user", "content": "Weather?", "images": None},
        {"role": "assistant", "content": None, "thinking": "Ask.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "sun", "tool_name": "weather"},
        {"role": "tool", "content": "rain", "tool_name": "weather"},
    ]
    found = decode_messages(told)
    assert [one["role"] for one in found] == ["system", "user", "assistant", "tool", "tool"]
    assert found[2]["reasoning_content"] == "Ask."
    ids = [one["id"] for one in found[2]["tool_calls"]]
    assert len(set(ids)) == 2
    assert [one["tool_call_id"] for one in found[3:]] == ids
    assert [one["name"] for one in found[3:]] == ["weather", "weather"]
    assert plain_messages(found)
    assert decode_messages(told) == found  # the same prompt every time


def test_a_result_goes_with_the_call_of_its_name() -> None:
    calls = [{"function": {"name": name, "arguments": {}}} for name in ("first", "second")]
    found = decode_messages(
        [
            {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "content": "2", "tool_name": "second"},
            {"role": "tool", "content": "1"},
            {"role": "tool", "content": "?", "tool_name": "third"},
            {"role": "tool", "content": "?"},
        ]
    )
    first, second = (one["id"] for one in found[0]["tool_calls"])
    assert [one.get("tool_call_id") for one in found[1:]] == [second, first, None, None]
    assert [one.get("name") for one in found[1:]] == ["second", "first", "third", None]


def test_ids_that_clients_give_are_kept() -> None:
    found = decode_messages(
        [
            {"role": "assistant", "tool_calls": [{"id": "a", **CALL}, {"id": "b", **CALL}]},
            {"role": "tool", "content": "2", "tool_call_id": "b"},
        ]
    )
    assert found[1]["tool_call_id"] == "b"
    assert found[1]["name"] == "weather"


def test_images_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"messages\.0\.images.*text"):
        decode_messages([{"role": "user", "content": "?", "images": ["aGk="]}])
    assert decode_messages([{"role": "user", "content": "?", "images": []}])
    with pytest.raises(InvalidRequest, match="images"):
        check_generate(generate(images=["aGk="]), None)


def test_tools_without_a_type() -> None:
    (found,) = decode_tools([{"function": {"name": "f", "parameters": {"type": "object"}}}])
    assert found["type"] == "function"
    assert plain_tools([found])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id", "name"]
)
CALLS = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": JSON, "arguments": JSON})}, optional={"id": JSON}
)


@given(
    st.lists(
        st.dictionaries(KEYS, JSON)
        | st.fixed_dictionaries({"role": st.just("assistant"), "tool_calls": st.lists(CALLS)})
        | st.fixed_dictionaries({"role": st.just("tool"), "tool_name": JSON, "content": JSON}),
        max_size=5,
    )
)
@settings(max_examples=scaled(200, 10_000), deadline=None)
def test_messages_of_any_shape_are_decoded_or_refused(messages: list[dict[str, Any]]) -> None:
    before = json.dumps(messages)
    with contextlib.suppress(InvalidRequest):
        plain_messages(decode_messages(messages))
    assert json.dumps(messages) == before


# ---- requests ------------------------------------------------------------------------------------


def test_a_conversation() -> None:
    body = chat(
        tools=[{"type": "function", "function": {"name": "f"}}],
        think=True,
        format="json",
        options={"num_predict": 9, "stop": "END", "temperature": 0, "seed": 3},
    )
    found = chat_request(body, "r1", "me")
    assert found.chat is not None
    assert found.chat.messages == (USER,)
    assert found.chat.thinks is True
    assert len(found.chat.tools) == 1
    assert (found.max_tokens, found.stop, found.tenant) == (9, ("END",), "me")
    assert found.sampling.grammar == Grammar("json_object")
    assert (found.sampling.temperature, found.sampling.seed) == (0, 3)


@pytest.mark.parametrize(
    ("think", "thinks", "variables"),
    [
        (None, None, {}),
        (True, True, {}),
        (False, False, {}),
        ("low", True, {"reasoning_effort": "low"}),
        ("high", True, {"reasoning_effort": "high"}),
    ],
)
def test_thinking(think: object, thinks: object, variables: dict[str, str]) -> None:
    found = chat_request(chat(think=think), "r1", "").chat
    assert found is not None
    assert (found.thinks, found.variables) == (thinks, variables)


@pytest.mark.parametrize("fields", [{"think": "much"}, {"format": "xml"}, {"format": 3}])
def test_words_that_nobody_knows(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        chat(**fields)


def test_formats() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    found = chat_request(chat(format=schema), "r1", "").sampling.grammar
    assert isinstance(found, Grammar)
    assert (found.kind, json.loads(found.source)) == ("json_schema", schema)
    anything = chat_request(chat(format={}), "r1", "").sampling.grammar
    assert anything == Grammar("json_schema", "{}")
    for nothing in ("", None):
        assert chat_request(chat(format=nothing), "r1", "").sampling.grammar is None


def test_logprobs() -> None:
    assert chat_request(chat(), "r1", "").sampling.logprobs is None
    assert chat_request(chat(top_logprobs=3), "r1", "").sampling.logprobs is None
    assert chat_request(chat(logprobs=True), "r1", "").sampling.logprobs == 0
    assert chat_request(chat(logprobs=True, top_logprobs=3), "r1", "").sampling.logprobs == 3


def test_answers_are_streamed_unless_told_otherwise() -> None:
    assert chat().is_streamed
    assert chat(stream=None).is_streamed
    assert not chat(stream=False).is_streamed


def test_names() -> None:
    assert ChatBody.model_validate({"name": "old"}).model == "old"
    for fields in ({}, {"model": ""}, {"model": None}, {"model": "x" * 600}):
        with pytest.raises(ValidationError):
            ChatBody.model_validate(fields)


def test_fields_that_nobody_knows_are_ignored() -> None:
    assert chat(wibble=1, shift=True).messages


def test_a_question() -> None:
    found = generate_chat(generate(system="Be kind.", think=False))
    assert [one["role"] for one in found.messages] == ["system", "user"]
    assert found.thinks is False
    assert len(generate_chat(generate()).messages) == 1
    assert text_request(generate(), "r1", "", (1, 2)).prompt == (1, 2)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"raw": True, "system": "x"}, "raw"),
        ({"raw": True, "context": [1]}, "raw"),
        ({"suffix": "x", "raw": True}, "suffix"),
        ({"suffix": "x", "system": "x"}, "suffix"),
    ],
)
def test_what_does_not_go_together(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{named}"):
        check_generate(generate(**fields), "a template")


def test_what_goes_together() -> None:
    check_generate(generate(template="a template", system="x", context=[1]), "a template")
    check_generate(generate(template="", raw=True), "a template")
    with pytest.raises(ValidationError):
        generate(context=[-1])


def test_nothing_but_loading() -> None:
    assert is_only_loading(generate(prompt=None))
    assert is_only_loading(generate(prompt=""))
    assert not is_only_loading(generate(prompt="", suffix="x"))
    assert not is_only_loading(generate())


# ---- embeddings ----------------------------------------------------------------------------------


def test_texts() -> None:
    def texts(given: object) -> tuple[str, ...]:
        return EmbedBody.model_validate({"model": "m", "input": given}).texts

    assert texts("a") == ("a",)
    assert texts(["a", "b"]) == ("a", "b")
    assert texts("") == texts([]) == texts(None) == ()
    with pytest.raises(ValidationError):
        texts([1])
    with pytest.raises(InvalidRequest):
        embed_request(EmbedBody(model="m", input=["a", ""]), "r1", "")


def test_texts_are_cut_unless_that_is_ruled_out() -> None:
    for truncate, cuts in ((None, True), (True, True), (False, False)):
        body = EmbedBody(model="m", input="a", truncate=truncate)
        assert embed_request(body, "r1", "").truncates is cuts
