"""Bodies of Anthropic's clients become requests; what cannot be served says where and why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from samovar.api.anthropic.request import chat_of, request_of
from samovar.api.anthropic.schema import MessagesFields, ignored
from samovar.api.anthropic.signing import Signer
from samovar.errors import InvalidRequest
from samovar.types import Chat, GenerateRequest, Grammar, Message, ToolChoice
from tests.conftest import scaled

Json = Any  # whatever a client sends or gets

SIGNER = Signer(b"k" * 32)
ADD = {
    "name": "add",
    "description": "Add two numbers.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "2"}
HELLO = {"role": "user", "content": "Hello."}


_FIELDS = (
    "text",
    "thinking",
    "signature",
    "id",
    "name",
    "input",
    "tool_use_id",
    "content",
    "is_error",
    "source",
    "title",
    "cache_control",
)


def body(**more: Json) -> MessagesFields:
    fields = {"model": "mini", "max_tokens": 10, "messages": [HELLO]}
    return MessagesFields.model_validate(fields | more)


def asked(**more: Json) -> GenerateRequest:
    return request_of(body(**more), SIGNER, "msg_1", "owner")


def chat(**more: Json) -> Chat:
    return chat_of(body(**more), SIGNER)


def messages(*turns: dict[str, Any], system: Json = None) -> list[Message]:
    return list(chat(messages=list(turns), system=system).messages)


def text(value: str, **more: Json) -> dict[str, Json]:
    return {"type": "text", "text": value, **more}


# ---- messages -----------------------------------------------------------------------------------


def test_system_is_text_or_blocks() -> None:
    assert messages(HELLO, system="Be kind.")[0] == {"role": "system", "content": "Be kind."}
    blocks = [text("Be kind."), text("Be brief.", cache_control={"type": "ephemeral"})]
    assert messages(HELLO, system=blocks)[0]["content"] == "Be kind.\n\nBe brief."
    assert messages(HELLO, system="") == [HELLO]
    later = messages(HELLO, {"role": "system", "content": "It is late."})
    assert later[1] == {"role": "system", "content": "It is late."}


def test_neighbours_of_one_role_are_one_message() -> None:
    found = messages(
        {"role": "user", "content": "a"},
        {"role": "user", "content": [text("b"), text("c")]},
        {"role": "assistant", "content": "d"},
        {"role": "assistant", "content": [text("e")]},
        {"role": "user", "content": "f"},
    )
    assert found == [
        {"role": "user", "content": "a\nb\nc"},
        {"role": "assistant", "content": "de"},
        {"role": "user", "content": "f"},
    ]


def test_calls_and_results_are_structured_and_results_come_first() -> None:
    found = messages(
        HELLO,
        {"role": "assistant", "content": [text("I add."), CALL]},
        {"role": "user", "content": [text("Well?"), RESULT]},
    )
    function = {"name": "add", "arguments": {"a": 1}}
    assert found[1:] == [
        {
            "role": "assistant",
            "content": "I add.",
            "tool_calls": [{"id": "toolu_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "name": "add", "content": "2"},
        {"role": "user", "content": "Well?"},
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"content": [text("a"), text("b")]}, "a\nb"),
        ({"content": None}, ""),
        ({"content": "no such file", "is_error": True}, "Error: no such file"),
        ({"content": "Error: no such file", "is_error": True}, "Error: no such file"),
        ({"content": "fine", "is_error": False}, "fine"),
    ],
)
def test_results_of_tools(more: dict[str, Json], said: str) -> None:
    found = messages(
        HELLO,
        {"role": "assistant", "content": [CALL]},
        {"role": "user", "content": [RESULT | more]},
    )
    assert found[-1]["content"] == said


def test_thinking_counts_only_if_it_was_signed_here() -> None:
    def thinking(signature: str) -> Message:
        block = {"type": "thinking", "thinking": "Hm.", "signature": signature}
        turn = {"role": "assistant", "content": [block, text("Yes.")]}
        return messages(HELLO, turn, HELLO)[1]

    ours = thinking(SIGNER.sign("Hm."))
    assert ours == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    for foreign in ("", "EqQBCgIYAhIM", Signer(b"o" * 32).sign("Hm."), SIGNER.sign("Ha.")):
        assert thinking(foreign) == {"role": "assistant", "content": "Yes."}
    hidden = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, CALL]}
    found = messages(HELLO, hidden, {"role": "user", "content": [RESULT]})
    assert "reasoning_content" not in found[1]


def test_documents_of_text_are_read() -> None:
    document = {
        "type": "document",
        "title": "Notes",
        "source": {"type": "text", "media_type": "text/plain", "data": "The cat is red."},
    }
    found = {"type": "search_result", "source": "a.txt", "title": "A", "content": [text("b")]}
    nested = {"type": "document", "source": {"type": "content", "content": [text("c")]}}
    (message,) = messages({"role": "user", "content": [document, found, nested]})
    assert message["content"] == "Notes\n\nThe cat is red.\nA\na.txt\n\nb\nc"


def test_a_last_message_of_the_assistants_is_continued() -> None:
    begun = chat(messages=[HELLO, {"role": "assistant", "content": "It is"}])
    assert begun.continues_last
    assert begun.messages[-1]["content"] == "It is"
    empty = chat(messages=[HELLO, {"role": "assistant", "content": ""}])
    assert not empty.continues_last
    assert list(empty.messages) == [HELLO]
    with pytest.raises(InvalidRequest, match="tool_result"):
        chat(messages=[HELLO, {"role": "assistant", "content": [CALL]}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "image", "source": {}}], r"messages\[0\].content\[0\]: images are not read"),
        ([text("a"), {"type": "document", "source": {"type": "url"}}], "only documents of plain"),
        ([{"type": "server_tool_use"}], "there are no tools of the server's"),
        ([{"type": "web_search_tool_result"}], "there are no tools of the server's"),
        ([{"type": "poem"}], "blocks of type poem are unknown"),
        ([{"text": "a"}], "a block needs a type"),
        ([{"type": "text", "text": 7}], r"content\[0\].text: Input should be a valid string"),
        ([text("a", cache_control={"type": "for ever"})], r"cache_control.type: Input should be"),
        ([CALL], "only text can stand here"),
        ([RESULT], "no tool_use before it"),
        ([], "there is no text in any of them"),
    ],
)
def test_content_that_is_refused(content: Json, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        messages({"role": "user", "content": content})


def test_what_is_wrong_is_told_without_what_was_sent() -> None:
    with pytest.raises(InvalidRequest) as caught:
        messages({"role": "user", "content": [{"type": "text", "text": {"secret": "SECRET"}}]})
    assert "SECRET" not in str(caught.value)
    with pytest.raises(InvalidRequest) as caught:
        messages({"role": "user", "content": [{"type": "SECRET" * 100}]})
    assert len(str(caught.value)) < 150


# ---- tools --------------------------------------------------------------------------------------


def test_tools_have_our_shape() -> None:
    function = {"name": "add", "description": "Add two numbers.", "parameters": ADD["input_schema"]}
    (tool,) = chat(tools=[ADD | {"type": "custom"}]).tools
    assert tool == {"type": "function", "function": function}
    with pytest.raises(InvalidRequest, match=r"tools\[1\]: tools of Anthropic's own"):
        chat(tools=[ADD, {"type": "web_search_20250305", "name": "web_search"}])
    with pytest.raises(InvalidRequest, match=r"tools\[0\].input_schema: Field required"):
        chat(tools=[{"name": "add"}])


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "add"}, ToolChoice("required", "add")),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            ToolChoice("required", is_parallel=False),
        ),
    ],
)
def test_tool_choice(choice: Json, expected: ToolChoice) -> None:
    assert chat(tools=[ADD], tool_choice=choice).tool_choice == expected


def test_tool_choices_without_such_a_tool() -> None:
    with pytest.raises(InvalidRequest, match="must name one of the tools"):
        chat(tools=[ADD], tool_choice={"type": "tool", "name": "look"})
    with pytest.raises(InvalidRequest, match="there are no tools"):
        chat(tool_choice={"type": "any"})


# ---- the rest -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thinking", "thinks", "budget"),
    [
        (None, None, None),
        ({"type": "enabled", "budget_tokens": 1024}, True, 1024),
        ({"type": "adaptive"}, True, None),
        ({"type": "disabled"}, False, None),
        ({"type": "between_tools"}, False, None),
    ],
)
def test_thinking(*, thinking: Json, thinks: bool | None, budget: int | None) -> None:
    found = chat(thinking=thinking)
    assert (found.thinks, found.reasoning_tokens) == (thinks, budget)


def test_effort_is_told_to_the_template() -> None:
    assert chat(output_config={"effort": "low"}).variables == {"reasoning_effort": "low"}
    assert chat(output_config={"effort": "max"}).variables == {"reasoning_effort": "high"}
    assert chat().variables == {}


def test_rules_for_what_changes_by_itself() -> None:
    assert chat().volatile == ("billing",)
    assert chat(volatile=["billing", "date"]).volatile == ("billing", "date")
    assert chat(volatile=[]).volatile == ()
    assert (chat().replays, chat(replays=False).replays) == (None, False)


@pytest.mark.parametrize("field", ["output_format", "output_config"])
def test_a_schema_becomes_a_grammar(field: str) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    found = asked(**{field: wanted if field == "output_format" else {"format": wanted}})
    assert found.sampling.grammar == Grammar("json_schema", '{"type":"object"}')


def test_sampling_and_limits() -> None:
    found = asked(temperature=0, top_p=0.5, top_k=3, min_p=0.1, seed=7, stop_sequences=["END"])
    sampling = found.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0, 0.5, 3)
    assert (sampling.min_p, sampling.seed) == (0.1, 7)
    assert (found.stop, found.max_tokens, found.prefill_only) == (("END",), 10, False)
    assert asked().sampling.temperature == 0.8
    warm = asked(max_tokens=0)
    assert (warm.max_tokens, warm.prefill_only) == (None, True)
    assert not asked(no_store=True).is_stored
    assert asked(adapters={"rhymes": 0.5}).adapters == (("rhymes", 0.5),)


def test_users_of_a_key_have_shares_of_their_own_and_one_cache() -> None:
    plain, one, other = (
        asked(),
        asked(metadata={"user_id": "one"}),
        asked(metadata={"user_id": "other"}),
    )
    assert (plain.tenant, plain.cache_salt) == ("owner", "owner")
    assert len({plain.tenant, one.tenant, other.tenant}) == 3
    assert one.cache_salt == other.cache_salt == "owner"
    assert "one" not in one.tenant
    assert asked(metadata={"user_id": "one"}).tenant == one.tenant
    salted = asked(cache_salt="owner")
    assert salted.cache_salt not in (None, "owner")
    elsewhere = request_of(body(metadata={"user_id": "one"}), SIGNER, "msg_1", "stranger")
    assert elsewhere.tenant != one.tenant


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": None},
        {"max_tokens": -1},
        {"max_tokens": "10"},
        {"max_tokens": True},
        {"messages": []},
        {"messages": "Hello."},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"temperature": 3},
        {"top_p": -0.1},
        {"top_k": -1},
        {"stream": "yes"},
        {"model": ""},
        {"thinking": {"type": "enabled", "budget_tokens": 0}},
        {"cache_control": {"type": "ephemeral", "ttl": "1y"}},
        {"tool_choice": {"type": "some"}},
    ],
)
def test_fields_that_are_wrong(wrong: dict[str, Json]) -> None:
    with pytest.raises(ValidationError):
        body(**wrong)


def test_fields_that_would_change_the_answer_are_refused_and_others_ignored() -> None:
    with pytest.raises(InvalidRequest, match="mcp_servers"):
        chat(mcp_servers=[{"type": "url", "url": "x", "name": "y"}])
    with pytest.raises(InvalidRequest, match="container"):
        chat(container="c")
    ignorable = {
        "service_tier": "auto",
        "betas": ["x"],
        "context_management": {"edits": []},
        "inference_geo": "eu",
        "speed": "fast",
        "metadata": {"user_id": None},
        "user_profile_id": "x",
        "diagnostics": {"previous_message_id": None},
    }
    assert chat(**ignorable) == chat()
    assert ignored(body(**ignorable, temprature=1, **{"a b": 2})) == ["temprature"]


# ---- anything -----------------------------------------------------------------------------------

words = st.sampled_from(["type", "text", "id", "name", "input", "content", "source", "data", "x"])
kinds = st.sampled_from(
    ["text", "thinking", "tool_use", "tool_result", "document", "search_result", "image", "add"]
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), kinds, st.text())
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner)),
    max_leaves=12,
)
blocks = st.one_of(
    st.fixed_dictionaries({"type": kinds, "text": st.text()}),
    st.fixed_dictionaries({"type": kinds}, optional=dict.fromkeys(_FIELDS, anything)),
    anything,
)
contents = st.one_of(st.text(), st.lists(blocks, max_size=4), anything)
roles = st.sampled_from(["user", "assistant", "system", "tool"])
turns = st.fixed_dictionaries({"role": roles, "content": contents})


@settings(max_examples=scaled(200, 4000), deadline=None)
@given(
    st.lists(turns, max_size=4),
    st.dictionaries(st.sampled_from(sorted(MessagesFields.model_fields)), anything, max_size=3),
)
def test_whatever_is_sent_is_a_request_or_refused(given_turns: Json, more: Json) -> None:
    try:
        found = asked(**{"messages": given_turns} | more)
    except (ValidationError, InvalidRequest):
        return
    assert found.chat is not None
    last = found.chat.messages[-1]
    assert found.chat.continues_last == (last["role"] == "assistant")
    for message in found.chat.messages:
        assert isinstance(message["content"], str)
