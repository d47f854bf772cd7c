"""Bodies become requests: every field that is honoured arrives, and what is wrong is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from samovar.api.openai.chat_request import ACCEPTED_OF_CHAT, ChatRequest, decode_chat
from samovar.api.openai.checks import BadField, ignored, param_of
from samovar.api.openai.completion_request import (
    CompletionRequest,
    decode_completion,
    prompts_of,
)
from samovar.api.openai.embeddings import EmbeddingsRequest, decode_embeddings
from samovar.api.openai.rerank import RerankRequest, decode_rerank
from samovar.api.openai.sampling import USUAL
from samovar.api.openai.tokens import TokenizeRequest, question_of
from samovar.errors import InvalidRequest
from samovar.types import Chat, GenerateRequest, Grammar, SamplingParams, ToolChoice

USER = {"role": "user", "content": "hi"}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "does",
        "strict": True,
        "parameters": {"type": "object", "properties": {"z": {}, "a": {}}},
    },
}
OTHER = {"type": "function", "function": {"name": "g"}}


def chat_of(tenant: str = "", **fields: Any) -> GenerateRequest:  # noqa: ANN401
    body = ChatRequest.model_validate({"messages": [USER], **fields})
    return decode_chat(body, "r", tenant)


def talk(**fields: Any) -> Chat:  # noqa: ANN401
    found = chat_of(**fields).chat
    assert found is not None
    return found


def refused(**fields: Any) -> str:  # noqa: ANN401
    """The field that a chat request is refused for."""
    with pytest.raises(BadField) as caught:
        chat_of(**fields)
    assert str(caught.value).startswith(caught.value.param)
    return caught.value.param


# ---- how to pick tokens --------------------------------------------------------------------------


def test_who_says_nothing_gets_what_is_usual() -> None:
    asked = chat_of()
    assert asked.sampling == USUAL
    assert SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05) == USUAL
    assert (asked.max_tokens, asked.choices, asked.stop, asked.is_stored) == (None, 1, (), True)


@pytest.mark.parametrize(
    ("field", "value", "name", "arrived"),
    [
        ("temperature", 0, "temperature", 0),
        ("top_p", 0.5, "top_p", 0.5),
        ("frequency_penalty", -1, "frequency_penalty", -1),
        ("presence_penalty", 1.5, "presence_penalty", 1.5),
        ("logit_bias", {"5": -100, "7": 2.5}, "logit_bias", {5: -100, 7: 2.5}),
        ("seed", 7, "seed", 7),
        ("seed", -1, "seed", 2**64 - 1),
        ("top_k", 3, "top_k", 3),
        ("min_p", 0.2, "min_p", 0.2),
        ("typical_p", 0.9, "typical_p", 0.9),
        ("repeat_penalty", 1.1, "repeat_penalty", 1.1),
        ("repetition_penalty", 1.2, "repeat_penalty", 1.2),
        ("repeat_last_n", 9, "penalty_last_n", 9),
        ("dry_sequence_breakers", ["a"], "dry_sequence_breakers", ("a",)),
        ("mirostat", 2, "mirostat", 2),
        ("min_tokens", 4, "min_tokens", 4),
        ("ignore_eos", True, "ignore_eos", True),
    ],
)
def test_sampling_arrives(field: str, value: object, name: str, arrived: object) -> None:
    assert getattr(chat_of(**{field: value}).sampling, name) == arrived


def test_null_is_as_good_as_nothing() -> None:
    fields = {name: None for name in ChatRequest.model_fields if name != "messages"}
    assert chat_of(**fields) == chat_of()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_p": 2}, "min_p"),
        ({"top_p": -1}, "top_p"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -5}, "max_completion_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "regex"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"json_schema": "no schema"}, "json_schema"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tool_choice": {"function": {"name": "x"}}, "tools": [TOOL]},
            "tool_choice.function.name",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "function"}]}, "tools[1].function.name"),
        ({"functions": [{"description": "no name"}]}, "functions[0].function.name"),
    ],
)
def test_the_field_that_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == param


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
    ],
)
def test_the_limit_of_an_answer(fields: dict[str, Any], limit: int | None) -> None:
    assert chat_of(**fields).max_tokens == limit


def test_what_ends_an_answer() -> None:
    assert chat_of(stop="a").stop == ("a",)
    assert chat_of(stop=["a", "b"], stop_token_ids=[3]).stop == ("a", "b")
    assert chat_of(stop_token_ids=[3]).stop_tokens == (3,)


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 4}, 4),
    ],
)
def test_log_probabilities(fields: dict[str, Any], logprobs: int | None) -> None:
    assert chat_of(**fields).sampling.logprobs == logprobs


# ---- what the text must be -----------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"z": {"type": "integer"}, "a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("fields", "kind", "source"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", ""),
        ({"grammar": 'root ::= "a"'}, "gbnf", 'root ::= "a"'),
        ({"guided_grammar": 'root ::= "a"'}, "gbnf", 'root ::= "a"'),
        ({"lark": 'start: "a"'}, "lark", 'start: "a"'),
        ({"regex": "a+"}, "regex", "a+"),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"choice": ["a", "b"]}, "choice", '["a","b"]'),
        ({"guided_choice": ["a"]}, "choice", '["a"]'),
        ({"structured_outputs": {"choice": ["a"]}}, "choice", '["a"]'),
        ({"structured_outputs": {"json_object": True}}, "json_object", ""),
    ],
)
def test_grammars_of_all_kinds(fields: dict[str, Any], kind: Any, source: str) -> None:  # noqa: ANN401
    assert chat_of(**fields).sampling.grammar == Grammar(kind, source)


@pytest.mark.parametrize(
    "fields",
    [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA},
            }
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
            }
        },
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"json_schema": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"structured_outputs": {"json": SCHEMA}},
    ],
)
def test_schemas_arrive_in_their_order(fields: dict[str, Any]) -> None:
    grammar = chat_of(**fields).sampling.grammar
    assert isinstance(grammar, Grammar)
    assert grammar.kind == "json_schema"
    assert list(json.loads(grammar.source)["properties"]) == ["z", "a"]
    assert json.loads(grammar.source) == SCHEMA


def test_text_may_be_anything() -> None:
    assert chat_of(response_format={"type": "text"}).sampling.grammar is None


# ---- conversations -------------------------------------------------------------------------------


def test_messages_arrive_as_they_were_sent() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    sent = [
        {"role": "developer", "content": "be"},
        {"role": "user", "content": "hi", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c", "content": "4"},
    ]
    assert list(talk(messages=sent).messages) == sent


def test_parts_of_text_are_text_whatever_they_are_called() -> None:
    parts = [
        "a",
        {"type": "text", "text": "b"},
        {"type": "input_text", "text": "c"},
        {"type": "refusal", "refusal": "d"},
    ]
    (message,) = talk(messages=[{"role": "user", "content": parts}]).messages
    assert message["content"] == [{"type": "text", "text": text} for text in "abcd"]


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
def test_what_is_no_text_is_refused_by_its_place(kind: str) -> None:
    parts = [{"type": "text", "text": "what is this?"}, {"type": kind, kind: {"url": "secret"}}]
    messages = [USER, {"role": "user", "content": parts}]
    with pytest.raises(BadField) as caught:
        chat_of(messages=messages)
    assert caught.value.param == "messages[1].content[1]"
    assert "secret" not in str(caught.value)


def test_calls_of_before_there_were_tools_are_calls_of_tools() -> None:
    sent = [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "4"},
    ]
    call, answer = talk(messages=sent).messages
    assert call["tool_calls"] == [
        {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]
    assert (answer["role"], answer["tool_call_id"]) == ("tool", "call_0")


def test_tools_arrive_without_what_is_no_matter_for_the_model() -> None:
    (tool,) = talk(tools=[TOOL]).tools
    assert tool["function"] == {k: v for k, v in TOOL["function"].items() if k != "strict"}  # type: ignore[attr-defined]
    assert list(tool["function"]["parameters"]["properties"]) == ["z", "a"]


@pytest.mark.parametrize(
    ("wish", "choice"),
    [
        (None, ToolChoice("auto")),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "g"}}, ToolChoice("required", "g")),
    ],
)
def test_wishes_for_calls(wish: object, choice: ToolChoice) -> None:
    assert talk(tools=[TOOL, OTHER], tool_choice=wish).tool_choice == choice


def test_some_tools_may_be_allowed() -> None:
    wish = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [OTHER]}}
    found = talk(tools=[TOOL, OTHER], tool_choice=wish)
    assert [one["function"]["name"] for one in found.tools] == ["g"]
    assert found.tool_choice == ToolChoice("required")


def test_one_call_at_a_time() -> None:
    assert not talk(tools=[TOOL], parallel_tool_calls=False).tool_choice.is_parallel
    assert not talk(functions=[TOOL["function"]]).tool_choice.is_parallel


@pytest.mark.parametrize(
    ("wish", "choice"),
    [
        ("none", ToolChoice("none", is_parallel=False)),
        ({"name": "f"}, ToolChoice("required", "f", is_parallel=False)),
    ],
)
def test_functions_of_before_there_were_tools(wish: object, choice: ToolChoice) -> None:
    found = talk(functions=[TOOL["function"]], function_call=wish)
    assert found.tool_choice == choice
    assert [one["function"]["name"] for one in found.tools] == ["f"]


@pytest.mark.parametrize(
    ("fields", "thinks", "budget", "variables"),
    [
        ({}, None, None, {}),
        ({"reasoning_effort": "none"}, False, None, {}),
        ({"reasoning_effort": "low"}, True, None, {"reasoning_effort": "low"}),
        ({"reasoning_tokens": 9}, None, 9, {}),
        ({"reasoning": {"enabled": False}}, False, None, {}),
        ({"reasoning": {"effort": "high", "max_tokens": 4}}, True, 4, {"reasoning_effort": "high"}),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "x"}},
            True,
            None,
            {"reasoning_effort": "x"},
        ),
    ],
)
def test_reasoning(
    fields: dict[str, Any], thinks: object, budget: int | None, variables: dict[str, Any]
) -> None:
    found = talk(**fields)
    assert (found.thinks, found.reasoning_tokens) == (thinks, budget)
    assert found.variables == variables


def test_what_holds_prompts_still() -> None:
    assert (talk().replays, talk().volatile) == (None, None)
    found = talk(replays=False, volatile=["date"])
    assert (found.replays, found.volatile) == (False, ("date",))


# ---- whose it is ---------------------------------------------------------------------------------


def test_users_of_a_key_share_what_was_computed_and_nothing_else() -> None:
    one, other = chat_of("team", user="ann"), chat_of("team", user="bob")
    assert one.tenant != other.tenant
    assert one.cache_salt == other.cache_salt == chat_of("team").cache_salt == "team"


@pytest.mark.parametrize("field", ["session_id", "cache_salt", "user"])
def test_no_key_can_name_what_is_anothers(field: str) -> None:
    names = {"session_id": "session", "cache_salt": "cache_salt", "user": "tenant"}
    arrived = {
        getattr(chat_of(tenant, **{field: name}), names[field])
        for tenant in ("a", "a/b", "1:a", "1:a/b")
        for name in ("c", "b/c", "a/c", "/c")
    }
    assert len(arrived) == 16


def test_what_is_kept() -> None:
    assert not chat_of(no_store=True).is_stored
    assert chat_of(adapters={"poet": 0.5}).adapters == (("poet", 0.5),)


def test_fields_that_nobody_knows_are_told() -> None:
    body = ChatRequest.model_validate(
        {
            "messages": [USER],
            "temprature": 1,
            "store": True,
            "metadata": {},
            "service_tier": "auto",
            "line\nbreak": 1,
            **{f"f{i}": i for i in range(30)},
        }
    )
    told = ignored(body, ACCEPTED_OF_CHAT)
    assert told[0] == "temprature"
    assert len(told) == 16
    assert not {"store", "metadata", "service_tier", "line\nbreak"} & set(told)


@pytest.mark.parametrize(
    ("place", "param"),
    [
        ((), None),
        (("messages", 0, "content", "str"), "messages[0].content"),
        (("messages", 0, "content", "list[union[str,Part]]", 1, "Part", "text"), None),
        (("stop", "constrained-str"), "stop"),
    ],
)
def test_a_field_is_named_by_its_path(place: tuple[int | str, ...], param: str | None) -> None:
    assert param_of(place) == (param or ("messages[0].content[1].text" if place else None))


# ---- completions ---------------------------------------------------------------------------------


def completions(**fields: Any) -> list[GenerateRequest]:  # noqa: ANN401
    body = CompletionRequest.model_validate({"prompt": "x", **fields})
    return decode_completion(body, prompts_of(body), "cmpl-1", "")


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
    ],
)
def test_prompts_of_every_kind(given: object, prompts: list[object]) -> None:
    asked = completions(prompt=given, n=2)
    assert [one.prompt for one in asked] == prompts
    assert len({one.request_id for one in asked}) == len(prompts)
    assert {one.choices for one in asked} == {2}


def test_a_completion_of_nothing_only_computes_the_prompt() -> None:
    (asked,) = completions(max_tokens=0)
    assert asked.prefill_only
    assert asked.max_tokens is None


def test_the_best_of_some_need_log_probabilities() -> None:
    (asked,) = completions(best_of=3, n=2)
    assert (asked.choices, asked.sampling.logprobs) == (3, 0)
    (asked,) = completions(logprobs=2)
    assert (asked.choices, asked.sampling.logprobs, asked.prompt_logprobs) == (1, 2, None)
    (asked,) = completions(logprobs=2, echo=True, max_tokens=0)
    assert (asked.sampling.logprobs, asked.prompt_logprobs, asked.prefill_only) == (2, 2, True)
    assert completions(echo=True)[0].prompt_logprobs is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"echo": True, "suffix": "x"}, "echo"),
        ({"prompt": ["a", "b"], "session_id": "s"}, "session_id"),
    ],
)
def test_completions_that_cannot_be(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadField) as caught:
        completions(**fields)
    assert caught.value.param == param


# ---- vectors, scores, tokens ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
    ],
)
def test_inputs_of_every_kind(given: object, inputs: tuple[object, ...]) -> None:
    body = EmbeddingsRequest.model_validate({"input": given, "user": "u"})
    asked = decode_embeddings(body, "r", "t")
    assert asked.inputs == inputs
    assert asked.tenant == chat_of("t", user="u").tenant


def test_an_empty_text_has_no_vector_and_no_score() -> None:
    with pytest.raises(BadField, match="input"):
        decode_embeddings(EmbeddingsRequest(input=["a", ""]), "r", "")
    with pytest.raises(BadField, match="query"):
        decode_rerank(RerankRequest(query="", documents=["a"]), "r", "")


def test_documents_are_texts_or_hold_them() -> None:
    body = RerankRequest.model_validate({"query": "q", "documents": ["a", {"text": "b"}]})
    assert decode_rerank(body, "r", "").documents == ("a", "b")


def test_a_text_or_a_conversation_is_tokenized() -> None:
    operation, arguments = question_of(TokenizeRequest.model_validate({"prompt": "a"}))
    assert (operation, arguments["text"]) == ("tokenize", "a")
    operation, arguments = question_of(TokenizeRequest.model_validate({"messages": [USER]}))
    assert (operation, arguments["messages"]) == ("render", [USER])
    for fields in ({}, {"content": "a", "messages": [USER]}):
        with pytest.raises(InvalidRequest):
            question_of(TokenizeRequest.model_validate(fields))
