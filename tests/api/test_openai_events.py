"""Events become chunks and bodies: however they are split, both say the same to the SDK."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from samovar.api.openai.chat_body import ChatCollector
from samovar.api.openai.chat_output import ChatForm, Head
from samovar.api.openai.chat_stream import ChatEncoder
from samovar.api.openai.completion_output import (
    CompletionCollector,
    CompletionEncoder,
    CompletionForm,
)
from samovar.types import (
    Cached,
    Choice,
    Divergence,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    TextDelta,
    Timings,
    TokenLogprobs,
    ToolCallDelta,
    Usage,
)
from tests.conftest import scaled

HEAD = Head("chatcmpl-1f00d", 100, "m")
PIECES = {1: b"a", 2: "é".encode()[:1], 3: "é".encode()[1:], 4: b"<|end|>"}
Json = dict[str, Any]


def finished(*reasons: str, request: str = "r", stop: str | None = None) -> Finished:
    usage = Usage(7, 9, Cached(live=1, disk=3), Timings(0.1, 0.2, 0.5, 2.0), Divergence(4, "new"))
    choices = tuple(Choice(reason, 42 + i, stop) for i, reason in enumerate(reasons))  # type: ignore[arg-type]
    return Finished(request, choices, usage)


def streamed(encoder: ChatEncoder | CompletionEncoder, events: Iterable[Event]) -> list[Json]:
    """The chunks of a stream, which has to end as one."""
    data = b"".join(map(encoder.feed, events)).decode()
    assert data.endswith("data: [DONE]\n\n")
    lines = data.split("\n\n")[:-2]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def chunks(events: Iterable[Event], form: ChatForm | None = None) -> list[Json]:
    found = streamed(ChatEncoder(HEAD, form or ChatForm()), events)
    for one in found:
        ChatCompletionChunk.model_validate(one, strict=True)
    return found


def answer(events: Iterable[Event], form: ChatForm | None = None) -> Json:
    collector = ChatCollector(HEAD, form or ChatForm())
    for event in events:
        collector.feed(event)
    ChatCompletion.model_validate_json(collector.body(), strict=True)
    made: Json = json.loads(collector.body())
    return made


# ---- the order of a stream -----------------------------------------------------------------------


def test_a_stream_begins_with_the_role_and_ends_with_the_reason() -> None:
    first, text, last = chunks([TextDelta("r", "hi", (1,)), finished("stop")])
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text["choices"][0] == {
        "index": 0,
        "delta": {"content": "hi"},
        "logprobs": None,
        "finish_reason": None,
    }
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert {one["id"] for one in (first, text, last)} == {"chatcmpl-1f00d"}
    assert "usage" not in last


def test_what_it_took_is_told_last_and_where_it_was_asked_for() -> None:
    found = chunks(
        [ReasoningDelta("r", "hm", (1, 2)), finished("length")], ChatForm(includes_usage=True)
    )
    assert [bool(one["choices"]) for one in found] == [True, True, True, False]
    assert found[-1]["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 9,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_where_the_prompt_came_from_and_how_long_it_took_is_told() -> None:
    for body in (answer([finished("stop")]), chunks([finished("stop")])[-1]):
        timings = body["timings"]
        assert (timings["cache_n"], timings["prompt_n"], timings["predicted_n"]) == (4, 3, 9)
        assert timings["prompt_per_second"] == pytest.approx(6)
        assert timings["predicted_per_token_ms"] == pytest.approx(2000 / 9)
        assert body["samovar"] == {
            "cached": {"live": 1, "memory": 0, "shm": 0, "disk": 3},
            "divergence": {"position": 4, "reason": "new"},
            "seeds": [42],
        }


def test_every_choice_is_whole_though_they_come_among_each_other() -> None:
    events = [
        TextDelta("r", "a", (1,), 1),
        TextDelta("r", "b", (1,), 0),
        TextDelta("r", "c", (1,), 1),
        finished("stop", "length", "stop"),
    ]
    found = [choice for one in chunks(events) for choice in one["choices"]]
    for index, text, reason in ((0, "b", "stop"), (1, "ac", "length"), (2, "", "stop")):
        own = [one for one in found if one["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(one["delta"].get("content", "") for one in own) == text
        assert [one["finish_reason"] for one in own if one["finish_reason"]] == [reason]


def test_calls_have_ids_of_their_own_which_are_told_once() -> None:
    events = [
        ToolCallDelta("r", 0, "f", "", (1,)),
        ToolCallDelta("r", 0, "", '{"a":', (2,)),
        ToolCallDelta("r", 0, "", "1}", (2,)),
        ToolCallDelta("r", 1, "g", "{}", (3,)),
        ToolCallDelta("r", 0, "f", "{}", (3,), 1),
        finished("tool_calls", "tool_calls"),
    ]
    found = [choice for one in chunks(events) for choice in one["choices"]]
    calls = [(one["index"], call) for one in found for call in one["delta"].get("tool_calls", ())]
    named = [call for _, call in calls if "id" in call]
    assert len({call["id"] for call in named}) == 3
    assert all(call["type"] == "function" and len(call["id"]) <= 40 for call in named)
    assert "name" not in calls[1][1]["function"]
    choices = answer(events)["choices"]
    whole = choices[0]["message"]["tool_calls"]
    assert [one["function"]["arguments"] for one in whole] == ['{"a":1}', "{}"]
    assert {one["id"] for c in choices for one in c["message"]["tool_calls"]} == {
        call["id"] for call in named
    }
    assert choices[0]["message"]["content"] is None
    assert choices[0]["finish_reason"] == "tool_calls"


def test_who_sends_functions_gets_a_function_call() -> None:
    events = [ToolCallDelta("r", 0, "f", '{"a"', (1,)), ToolCallDelta("r", 0, "", ":1}", (2,))]
    form = ChatForm(wants_functions=True)
    choice = answer([*events, finished("tool_calls")], form)["choices"][0]
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "function_call"
    deltas = [one["choices"][0]["delta"] for one in chunks([*events, finished("stop")], form)]
    assert [one["function_call"] for one in deltas if "function_call" in one] == [
        {"name": "f", "arguments": '{"a"'},
        {"arguments": ":1}"},
    ]


def test_the_stop_string_is_told() -> None:
    events = [finished("stop", stop="END")]
    assert answer(events)["choices"][0]["stop_reason"] == "END"
    assert chunks(events)[-1]["choices"][0]["stop_reason"] == "END"


def test_a_failure_ends_the_stream() -> None:
    encoder = ChatEncoder(HEAD, ChatForm())
    assert encoder.ping() == b": ping\n\n"
    encoder.feed(TextDelta("r", "a", (1,)))
    (chunk,) = streamed(encoder, [Failed("r", "worker_lost", "it died", retryable=True)])
    assert chunk["error"]["message"] == "it died"
    assert chunk["error"]["code"] == "worker_lost"


def test_log_probabilities_of_halves_of_characters_and_of_what_cannot_be() -> None:
    logprobs = (
        TokenLogprobs(2, -0.5, ((2, -0.5), (4, float("-inf")))),
        TokenLogprobs(3, -0.25, ((3, -0.25),)),
    )
    events = [TextDelta("r", "é", (2, 3), 0, logprobs), finished("stop")]
    form = ChatForm(pieces=PIECES)
    told = answer(events, form)["choices"][0]["logprobs"]
    assert told == chunks(events, form)[1]["choices"][0]["logprobs"]
    assert bytes(b for one in told["content"] for b in one["bytes"]).decode() == "é"
    assert told["content"][0]["top_logprobs"][1] == {
        "token": "<|end|>",
        "logprob": -9999.0,
        "bytes": list(b"<|end|>"),
    }


# ---- however it is split -------------------------------------------------------------------------

Part = tuple[str, int, str]
"""Kind, choice and text; a call's kind is `call` and its number."""

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
parts = st.lists(
    st.tuples(st.sampled_from(["text", "reasoning", "call0", "call1"]), st.integers(0, 1), texts),
    max_size=8,
)


def event_of(kind: str, choice: int, text: str, named: set[tuple[str, int]]) -> Event:
    if kind == "text":
        return TextDelta("r", text, (1,), choice)
    if kind == "reasoning":
        return ReasoningDelta("r", text, (1,), choice)
    name = "" if (kind, choice) in named else f"name of {kind}"
    named.add((kind, choice))
    return ToolCallDelta("r", int(kind[-1]), name, text, (1,), choice)


def events_of(given: Sequence[Part]) -> list[Event]:
    named: set[tuple[str, int]] = set()
    return [*(event_of(*one, named) for one in given), finished("stop", "tool_calls")]


def summed(found: Iterable[Json]) -> list[Json]:
    """The messages that a client puts together from chunks."""
    messages: list[Json] = [{"calls": {}}, {"calls": {}}]
    for choice in (choice for one in found for choice in one["choices"]):
        message, delta = messages[choice["index"]], choice["delta"]
        for name in ("content", "reasoning_content", "reasoning"):
            message[name] = message.get(name, "") + delta.get(name, "")
        for call in delta.get("tool_calls", ()):
            known = message["calls"].setdefault(call["index"], {"arguments": ""})
            known["arguments"] += call["function"]["arguments"]
            known |= {k: call[k] for k in ("id", "type") if k in call}
            known |= {k: call["function"][k] for k in ("name",) if k in call["function"]}
    return messages


@given(parts, st.data())
@settings(max_examples=scaled(60, 3000), deadline=None)
def test_any_split_says_the_same_as_the_whole(given: list[Part], data: st.DataObject) -> None:
    split: list[Part] = []
    for kind, choice, text in given:
        at = data.draw(st.integers(0, len(text)))
        split += [(kind, choice, text[:at]), (kind, choice, text[at:])]
    whole = answer(events_of(given))
    assert answer(events_of(split))["choices"] == whole["choices"]
    for told, choice in zip(summed(chunks(events_of(split))), whole["choices"], strict=True):
        message = choice["message"]
        assert told["content"] == (message["content"] or "")
        assert told["reasoning"] == told["reasoning_content"] == message.get("reasoning", "")
        calls = message.get("tool_calls", [])
        assert sorted(told["calls"].values(), key=lambda one: one["id"]) == sorted(
            ({"id": one["id"], "type": one["type"], **one["function"]} for one in calls),
            key=lambda one: one["id"],
        )


# ---- completions ---------------------------------------------------------------------------------


def completed(events: Iterable[Event], form: CompletionForm) -> Json:
    collector = CompletionCollector(HEAD, form)
    for event in events:
        collector.feed(event)
    Completion.model_validate_json(collector.body(), strict=True)
    made: Json = json.loads(collector.body())
    return made


def test_prompts_keep_their_places_though_they_end_in_any_order() -> None:
    form = CompletionForm(("p0", "p1"), 2, ("zero ", "one "), includes_usage=True)
    events = [
        TextDelta("p1", "d", (1,), 1),
        finished("length", "stop", request="p1"),
        TextDelta("p0", "a", (1,), 0),
        TextDelta("p0", "b", (1,), 1),
        finished("stop", "stop", request="p0"),
    ]
    whole = completed(events, form)
    assert [one["text"] for one in whole["choices"]] == ["zero a", "zero b", "one ", "one d"]
    assert [one["index"] for one in whole["choices"]] == [0, 1, 2, 3]
    assert whole["usage"]["total_tokens"] == 32
    found = streamed(CompletionEncoder(HEAD, form), events)
    for one in found:
        Completion.model_validate({**one, "choices": [], "usage": None})
    told = ["", "", "", ""]
    for choice in (choice for one in found for choice in one["choices"]):
        told[choice["index"]] += choice["text"]
    assert told == [one["text"] for one in whole["choices"]]
    assert found[-1]["usage"] == whole["usage"]


def test_the_likeliest_are_told_by_the_mean_of_their_tokens() -> None:
    form = CompletionForm(("r",), 2)
    likely, unlikely = TokenLogprobs(1, -0.1), TokenLogprobs(1, -2.0)
    events = [
        TextDelta("r", "short", (1,), 0, (unlikely,)),
        TextDelta("r", "none", (1,), 1),
        TextDelta("r", "long", (1,) * 40, 2, (likely,) * 40),
        finished("stop", "stop", "length"),
    ]
    choices = completed(events, form)["choices"]
    assert [(one["index"], one["text"]) for one in choices] == [(0, "long"), (1, "short")]
    assert choices[0]["finish_reason"] == "length"
    assert choices[0]["logprobs"] is None


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=12), st.integers(0, 12))
@settings(max_examples=scaled(40, 1000), deadline=None)
def test_offsets_are_places_in_the_text(tokens: list[int], at: int) -> None:
    given = [TokenLogprobs(token, -1.0, ((1, -0.5),)) for token in tokens]
    form = CompletionForm(("r",), 1, ("éa",), pieces=PIECES)
    parts = [tuple(given[:at]), tuple(given[at:])]
    events = [TextDelta("r", "x", (1,), 0, part) for part in parts]
    told = completed([*events, finished("stop")], form)["choices"][0]["logprobs"]
    offsets = told["text_offset"]
    assert offsets == sorted(offsets)
    assert offsets[0] == 2
    assert len(offsets) == len(told["tokens"]) == len(told["top_logprobs"]) == len(tokens)
    found = streamed(CompletionEncoder(HEAD, form), [*events, finished("stop")])
    some = [c["logprobs"] for one in found for c in one["choices"] if c["logprobs"]]
    assert [one for part in some for one in part["text_offset"]] == offsets


def test_text_is_in_its_chunk_whatever_it_and_the_model_are_called() -> None:
    mark = '"content":""'
    events = [TextDelta("r", said, (1,)) for said in ("a", mark, 'é"\\\n')]
    head = Head("chatcmpl-1f00d", 100, f"m{mark}")
    found = streamed(ChatEncoder(head, ChatForm()), [*events, finished("stop")])
    assert [one["choices"][0]["delta"].get("content") for one in found[1:-1]] == [
        one.text for one in events
    ]
    assert {one["model"] for one in found} == {head.model}
    assert all(found[1].keys() == one.keys() for one in found[2:-1])
