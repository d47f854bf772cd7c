"""Streams obey Anthropic's grammar whatever is told, and add up to the message of one body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from samovar.api.anthropic.answer import AnswerTo
from samovar.api.anthropic.collector import MessageCollector
from samovar.api.anthropic.encoder import MessagesEncoder
from samovar.api.anthropic.signing import Signer
from samovar.types import (
    Begun,
    Cached,
    Choice,
    Divergence,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from tests.conftest import scaled

Json = Any  # whatever a client sends or gets

SIGNER = Signer(b"k" * 32)
EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
choices = st.sampled_from([0, 0, 0, 0, 1])
deltas = st.one_of(
    st.builds(TextDelta, st.just("m"), texts, st.just((1,)), choices),
    st.builds(ReasoningDelta, st.just("m"), texts, st.just((1, 2)), choices),
    st.builds(
        ToolCallDelta,
        st.just("m"),
        st.integers(0, 3),
        st.sampled_from(["add", "look"]),
        st.just(""),
        st.just((1,)),
        choices,
    ),
)
ends = st.builds(
    Finished,
    st.just("m"),
    st.builds(
        lambda reason, stop: (Choice(reason, 0, stop),),
        st.sampled_from(["stop", "length", "cancelled", "tool_calls"]),
        st.sampled_from([None, 7, "END"]),
    ),
    st.builds(
        Usage,
        st.just(100),
        st.integers(0, 9),
        st.builds(Cached, live=st.integers(0, 99)),
        divergence=st.sampled_from([None, Divergence(0, "new"), Divergence(0, "short")]),
    ),
)


def answer(**more: Json) -> AnswerTo:
    return AnswerTo("msg_1", "mini", 9, request_id="req_1", **more)


def streamed(events: list[Event | None], **more: Json) -> list[dict[str, Json]]:
    """The events of a stream, as data; None is a ping. Names and data agree.

    Comments are left out; they come before everything else.
    """
    encoder = MessagesEncoder(answer(**more), SIGNER)
    data = b"".join(encoder.ping() if one is None else encoder.feed(one) for one in events)
    found = []
    for block in data.decode().split("\n\n")[:-1]:
        if block.startswith(":"):
            assert not found
            continue
        name, told = block.split("\n")
        fields = json.loads(told.removeprefix("data: "))
        assert name == f"event: {fields['type']}"
        found.append(fields)
    return found


def collected(events: list[Event], **more: Json) -> dict[str, Json]:
    collector = MessageCollector(answer(**more), SIGNER)
    for event in events:
        collector.feed(event)
    body: dict[str, Any] = json.loads(collector.body())
    return body


def added_up(stream: list[dict[str, Any]]) -> dict[str, Json]:
    """The message of a stream, which must be well formed."""
    told = [one for one in stream if one["type"] != "ping"]
    assert told[0]["type"] == "message_start"
    assert [one["type"] for one in told[-2:]] == ["message_delta", "message_stop"]
    message: dict[str, Any] = told[0]["message"]
    is_open = False
    for one in told[1:-2]:
        match one["type"]:
            case "content_block_start":
                assert not is_open
                assert one["index"] == len(message["content"])
                message["content"].append(one["content_block"])
                is_open = True
            case "content_block_delta":
                assert is_open
                assert one["index"] == len(message["content"]) - 1
                add(message["content"][-1], one["delta"])
            case "content_block_stop":
                assert is_open
                assert one["index"] == len(message["content"]) - 1
                is_open = False
            case other:
                raise AssertionError(other)
    assert not is_open
    message.update(told[-2]["delta"])
    message["usage"].update(told[-2]["usage"])
    for block in message["content"]:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("json", "") or "{}")
    return message


def add(block: dict[str, Any], delta: dict[str, Json]) -> None:
    kind, field = {
        "thinking_delta": ("thinking", "thinking"),
        "signature_delta": ("thinking", "signature"),
        "text_delta": ("text", "text"),
        "input_json_delta": ("tool_use", "partial_json"),
    }[delta["type"]]
    assert block["type"] == kind
    kept = "json" if field == "partial_json" else field
    block[kept] = block.get(kept, "") + delta[field]


def without_ids(message: dict[str, Any]) -> dict[str, Json]:
    for block in message["content"]:
        if block["type"] == "tool_use":
            assert block.pop("id").startswith("toolu_")
    return message


@settings(max_examples=scaled(150, 5000), deadline=None)
@given(
    events=st.lists(st.one_of(deltas, st.none())),
    end=ends,
    shows_thinking=st.booleans(),
    is_stored=st.booleans(),
)
def test_every_stream_is_well_formed_and_adds_up_to_the_body(
    *, events: list[Event | None], end: Finished, shows_thinking: bool, is_stored: bool
) -> None:
    more = {"shows_thinking": shows_thinking, "is_stored": is_stored}
    stream = streamed([*events, end], **more)
    for one in stream:
        if one["type"] != "ping":
            EVENTS.validate_python(one)
    body = collected([one for one in events if one is not None] + [end], **more)
    Message.model_validate(body)
    assert without_ids(added_up(stream)) == without_ids(body)


@settings(max_examples=scaled(50, 1000), deadline=None)
@given(st.lists(st.one_of(deltas, st.none())))
def test_a_failure_ends_a_stream_wherever_it_comes(events: list[Event | None]) -> None:
    stream = streamed([*events, Failed("m", "worker_lost", "it died")])
    assert stream[-1] == {
        "type": "error",
        "error": {"type": "api_error", "message": "it died"},
        "request_id": "req_1",
    }
    assert "error" not in [one["type"] for one in stream[:-1]]


COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@settings(max_examples=scaled(100, 2000), deadline=None)
@given(
    events=st.lists(st.one_of(deltas, st.none())),
    pings=st.integers(0, 3),
    end=ends,
    is_stored=st.booleans(),
)
def test_a_stream_begins_with_what_its_prompt_takes(
    *, events: list[Event | None], pings: int, end: Finished, is_stored: bool
) -> None:
    usage = end.usage
    begun = Begun("m", usage.prompt_tokens, usage.cached, usage.divergence)
    stream = streamed([*[None] * pings, begun, *events, end], is_stored=is_stored)
    start, last = stream[0]["message"]["usage"], stream[-2]["usage"]
    assert [start[name] for name in COUNTS] == [last[name] for name in COUNTS]
    assert sum(start[name] for name in COUNTS) == 100
    assert start["output_tokens"] == 0
    assert "output_tokens_details" not in start


def test_a_sign_of_life_begins_the_stream_once_it_is_known_what_the_prompt_takes() -> None:
    encoder = MessagesEncoder(answer(), SIGNER)
    assert encoder.ping() == encoder.ping() == b": waiting\n\n"
    assert encoder.feed(Begun("m", 10, Cached(memory=4))) == b""
    assert b'"cache_read_input_tokens":4' in encoder.ping()
    kinds = [
        one["type"]
        for one in streamed([None, Begun("m", 10), None, None, TextDelta("m", "a", (1,))])
    ]
    assert kinds == ["message_start", "ping", "ping", "content_block_start", "content_block_delta"]


def test_what_ended_while_it_waited_is_a_stream_all_the_same() -> None:
    stream = streamed([None, Finished("m", (Choice("cancelled", 0),), Usage(10, 0))])
    assert [stream[0]["message"]["usage"][name] for name in COUNTS] == [0, 0, 0]
    assert added_up(stream)["content"] == []


def test_thinking_text_and_calls_in_the_order_of_the_protocol() -> None:
    stream = streamed(
        [
            ReasoningDelta("m", "Let me ", (1,)),
            ReasoningDelta("m", "see.", (2,)),
            TextDelta("m", "I will add.", (3,)),
            ToolCallDelta("m", 0, "add", '{"a": 1}', (4,)),
            ToolCallDelta("m", 1, "add", "", (5,)),
            ToolCallDelta("m", 1, "", '{"a"', (5,)),
            ToolCallDelta("m", 1, "", ": 2}", (6,)),
            Finished("m", (Choice("tool_calls", 0),), Usage(10, 6)),
        ]
    )
    assert [(one["type"], one.get("index")) for one in stream] == [
        ("message_start", None),
        ("ping", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("content_block_start", 3),
        ("content_block_delta", 3),
        ("content_block_delta", 3),
        ("content_block_delta", 3),
        ("content_block_stop", 3),
        ("message_delta", None),
        ("message_stop", None),
    ]
    message = added_up(stream)
    thinking, _, first, second = message["content"]
    assert thinking["thinking"] == "Let me see."
    assert SIGNER.is_ours("Let me see.", thinking["signature"])
    assert (first["input"], second["input"]) == ({"a": 1}, {"a": 2})
    assert first["id"] != second["id"]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"]["output_tokens_details"] == {"thinking_tokens": 2}


def test_thinking_that_is_not_shown_is_signed_all_the_same() -> None:
    events: list[Event | None] = [
        ReasoningDelta("m", "secret", (1,)),
        Finished("m", (Choice("stop", 0),), Usage(10, 1)),
    ]
    stream = streamed(events, shows_thinking=False)
    assert "secret" not in json.dumps(stream)
    (block,) = added_up(stream)["content"]
    assert block["thinking"] == ""
    assert SIGNER.is_ours("", block["signature"])


@pytest.mark.parametrize(
    ("choice", "generated", "max_tokens", "reason"),
    [
        (Choice("stop", 0), 3, 9, ("end_turn", None)),
        (Choice("stop", 0, 2), 3, 9, ("end_turn", None)),
        (Choice("stop", 0, "END"), 3, 9, ("stop_sequence", "END")),
        (Choice("length", 0), 9, 9, ("max_tokens", None)),
        (Choice("length", 0), 8, 9, ("model_context_window_exceeded", None)),
        (Choice("cancelled", 0), 3, 9, ("end_turn", None)),
        (Choice("stop", 0), 0, 0, ("max_tokens", None)),
    ],
)
def test_stop_reasons(
    choice: Choice, generated: int, max_tokens: int, reason: tuple[str, str | None]
) -> None:
    collector = MessageCollector(AnswerTo("msg_1", "mini", max_tokens), SIGNER)
    collector.feed(TextDelta("m", "x", (1,)))
    collector.feed(Finished("m", (choice,), Usage(10, generated)))
    body = json.loads(collector.body())
    assert (body["stop_reason"], body["stop_sequence"]) == reason


@pytest.mark.parametrize(
    ("cached", "why", "is_stored", "counts"),
    [
        (0, None, True, (100, 0, 0)),
        (0, "off", True, (100, 0, 0)),
        (0, "short", True, (100, 0, 0)),
        (0, "new", True, (0, 100, 0)),
        (60, "other_tokens", True, (0, 40, 60)),
        (60, "other_tokens", False, (40, 0, 60)),
        (99, "none", True, (1, 0, 99)),
    ],
)
def test_input_tokens_are_counted_once(
    *, cached: int, why: Json, is_stored: bool, counts: tuple[int, int, int]
) -> None:
    usage = Usage(100, 1, Cached(memory=cached), divergence=why and Divergence(cached, why))
    body = collected([Finished("m", (Choice("stop", 0),), usage)], is_stored=is_stored)["usage"]
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    assert tuple(body[name] for name in names) == counts
    assert sum(counts) == 100


def test_signatures_are_of_one_text_and_one_key() -> None:
    signature = SIGNER.begin()
    for piece in ("a", "", "bc"):
        signature.feed(piece)
    assert signature.text() == SIGNER.sign("abc")
    assert SIGNER.is_ours("abc", SIGNER.sign("abc"))
    assert not SIGNER.is_ours("abd", SIGNER.sign("abc"))
    assert not Signer(b"o" * 32).is_ours("abc", SIGNER.sign("abc"))
    assert not SIGNER.is_ours("abc", "")
    assert not SIGNER.is_ours("abc", "Ünsinn")
