"""The typed events of a response: whatever comes in, they are whole, numbered and add up."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from samovar.api.openai.responses.encode import ResponseCollector, ResponseEncoder
from samovar.api.openai.responses.output import unsealed
from samovar.api.openai.responses.turn import Head, Turn, error_code
from samovar.types import (
    Cached,
    Choice,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
    Usage,
)
from tests.conftest import scaled

SDK = TypeAdapter(ResponseStreamEvent)
TERMINAL = {"response.completed", "response.incomplete", "response.failed"}
ECHO: dict[str, Any] = {
    "model": "m",
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
}
PIECES = {1: b"Hi", 2: "é".encode()[:1]}

Json = dict[str, Any]


def turn(**head: bool) -> Turn:
    numbers = itertools.count()
    made = Head("resp_1", 100, ECHO, customs={"patch"}, **head)
    return Turn(made, lambda prefix: f"{prefix}{next(numbers)}", lambda: 107, PIECES)


def finished(reason: str = "stop", generated: int = 9) -> Finished:
    usage = Usage(7, generated, Cached(live=2, disk=3))
    return Finished("r", (Choice(reason, 42),), usage)  # type: ignore[arg-type]


def text(said: str, *logprobs: TokenLogprobs) -> TextDelta:
    return TextDelta("r", said, (1,), logprobs=logprobs)


def thought(said: str) -> ReasoningDelta:
    return ReasoningDelta("r", said, (1, 2))


def call(number: int, name: str, arguments: str) -> ToolCallDelta:
    return ToolCallDelta("r", number, name, arguments, (1,))


def fed(one: Turn, events: Iterable[Event]) -> list[Json]:
    said = [said for event in events for said in one.feed(event)]
    return json.loads(json.dumps(said))  # type: ignore[no-any-return]


def wire(value: object) -> Any:  # noqa: ANN401
    return json.loads(json.dumps(value))


def kinds(events: Iterable[Json]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


# ---- any sequence of events ----------------------------------------------------------------------

pieces = st.text(max_size=6)


@st.composite
def sequences(draw: st.DrawFn) -> list[Event]:
    """What a reader may give: runs of text, of reasoning, and calls one after the other."""
    events: list[Event] = []
    numbers = itertools.count()
    for kind in draw(st.lists(st.sampled_from(["text", "thought", "call"]), max_size=6)):
        parts = draw(st.lists(pieces, min_size=1, max_size=4))
        if kind == "text":
            events += [text(part) for part in parts]
        elif kind == "thought":
            events += [thought(part) for part in parts]
        else:
            number = next(numbers)
            name = draw(st.sampled_from(["patch"]) | st.text(min_size=1, max_size=5))
            events += [call(number, name if i == 0 else "", part) for i, part in enumerate(parts)]
    end = draw(st.sampled_from(["stop", "length", "tool_calls", "cancelled", "failed"]))
    failed = Failed("r", "worker_lost", "gone")
    return [*events, failed if end == "failed" else finished(end)]


@given(events=sequences(), has_summary=st.booleans(), is_sealed=st.booleans())
@settings(max_examples=scaled(60, 1500), deadline=None)
def test_whatever_comes_is_whole_and_adds_up(
    *, events: list[Event], has_summary: bool, is_sealed: bool
) -> None:
    said = fed(one := turn(has_summary=has_summary, is_sealed=is_sealed), events)
    assert [event["sequence_number"] for event in said] == list(range(len(said)))
    assert kinds(said[:2]) == ["created", "in_progress"]
    assert [event["type"] in TERMINAL for event in said] == [False] * (len(said) - 1) + [True]
    rebuilt = Rebuilt()
    for event in said:
        SDK.validate_python(event)
        rebuilt.take(event)
    final = said[-1]["response"]
    assert final == wire(one.response())
    assert rebuilt.output == final["output"]
    for kind, expected in (("message", TextDelta), ("reasoning", ReasoningDelta)):
        told = "".join(e.text for e in events if isinstance(e, expected))
        assert told == "".join(texts_of(item) for item in final["output"] if item["type"] == kind)
    assert one.feed(text("more")) == []


def texts_of(item: Json) -> str:
    return "".join(part["text"] for part in item["content"])


class Rebuilt:
    """What a client knows that looks at nothing but items, parts and deltas."""

    def __init__(self) -> None:
        self.output: list[Json] = []
        self._open: int | None = None
        self._parts: dict[tuple[str, int], str] = {}
        self._arguments = ""

    def take(self, event: Json) -> None:
        kind = event["type"].removeprefix("response.")
        if "output_index" in event:
            assert event["output_index"] == len(self.output)
        if kind == "output_item.added":
            assert self._open is None
            assert event["item"]["status"] == "in_progress"
            self._open, self._parts, self._arguments = event["output_index"], {}, ""
            self._id = event["item"]["id"]
        elif kind == "output_item.done":
            self._done(event["item"])
        elif "item_id" in event:
            assert event["item_id"] == self._id
            self._part(kind, event)
        elif kind in {"completed", "incomplete", "failed"}:
            assert self._open is None

    def _part(self, kind: str, event: Json) -> None:
        if kind.startswith(("function_call_arguments", "custom_tool_call_input")):
            if kind.endswith(".delta"):
                self._arguments += event["delta"]
            else:
                assert self._arguments in (event.get("arguments"), event.get("input"))
            return
        is_summary = "summary_index" in event
        key = ("summary", event["summary_index"]) if is_summary else ("", event["content_index"])
        if kind.endswith("part.added"):
            assert key not in self._parts
            assert event["part"]["text"] == ""
            self._parts[key] = ""
        elif kind.endswith(".delta"):
            self._parts[key] += event["delta"]
        elif kind.endswith("part.done"):
            assert event["part"]["text"] == self._parts[key]
        else:
            assert event["text"] == self._parts[key]

    def _done(self, item: Json) -> None:
        assert item["id"] == self._id
        assert item["status"] in {"completed", "incomplete"}
        if item["type"] in {"function_call", "custom_tool_call"}:
            assert self._arguments in (item.get("arguments"), item.get("input"))
        else:
            assert [part["text"] for part in item["content"]] == [self._parts["", 0]]
        if item["type"] == "reasoning":
            told = [part["text"] for part in item["summary"]]
            assert told == [text for key, text in self._parts.items() if key[0] == "summary"]
        self.output.append(item)
        self._open = None


@given(events=sequences(), has_summary=st.booleans())
@settings(max_examples=scaled(15, 500), deadline=None)
def test_the_sdk_accumulates_what_the_object_says(
    *, events: list[Event], has_summary: bool
) -> None:
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=[], text_format=omit)
    one = turn(has_summary=has_summary)
    for event in fed(one, events):
        state.handle_event(SDK.validate_python(event))
    Response.model_validate(one.response())
    if one.status == "completed":
        assert state._completed_response is not None  # noqa: SLF001
        theirs = state._completed_response.to_dict()["output"]  # noqa: SLF001
        assert [item["id"] for item in theirs] == [item["id"] for item in one.output()]  # type: ignore[attr-defined]


@given(sequences())
@settings(max_examples=scaled(15, 500), deadline=None)
def test_streamed_and_collected_say_the_same(events: list[Event]) -> None:
    ended: list[Turn] = []
    encoder = ResponseEncoder(turn(), ended.append)
    stream = b"".join(encoder.feed(event) for event in events)
    frames = [frame.split("\n") for frame in stream.decode().split("\n\n")[:-1]]
    assert all(len(frame) == 2 for frame in frames)
    datas = [json.loads(frame[1].removeprefix("data: ")) for frame in frames]
    assert [frame[0] for frame in frames] == [f"event: {data['type']}" for data in datas]
    assert len(ended) == 1
    if isinstance(events[-1], Failed):
        return
    collector = ResponseCollector(turn(), ended.append)
    for event in events:
        collector.feed(event)
    assert json.loads(collector.body()) == datas[-1]["response"]
    assert len(ended) == 2


# ---- the shapes, one by one ----------------------------------------------------------------------


def test_reasoning_then_text_then_two_calls() -> None:
    events: list[Event] = [
        thought("Hm"),
        text("Let me "),
        text("see"),
        call(0, "look", '{"a":'),
        call(0, "", "1}"),
        call(1, "go", "{}"),
        finished("tool_calls"),
    ]
    one = turn()
    assert kinds(fed(one, events)) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    said = wire(one.response())
    assert [item["type"] for item in said["output"]] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert said["output"][2]["arguments"] == '{"a":1}'
    assert said["completed_at"] == 107
    assert said["samovar"]["seeds"] == [42]
    assert said["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 16,
    }


def test_a_summary_is_told_where_it_was_asked_for() -> None:
    said = fed(one := turn(has_summary=True), [thought("Hm"), finished()])
    assert kinds(said)[2:-1] == [
        "output_item.added",
        "content_part.added",
        "reasoning_summary_part.added",
        "reasoning_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    assert one.output()[0]["summary"] == [{"type": "summary_text", "text": "Hm"}]


def test_what_is_cut_off_is_incomplete_and_says_why() -> None:
    said = fed(one := turn(), [text("Once"), finished("length")])
    assert said[-1]["type"] == "response.incomplete"
    assert one.response()["status"] == "incomplete"
    assert one.response()["incomplete_details"] == {"reason": "max_output_tokens"}
    assert one.output()[0]["status"] == "incomplete"


def test_a_failure_in_the_midst_is_an_error_and_the_end() -> None:
    said = fed(one := turn(), [text("Once"), Failed("r", "worker_lost", "it died; try again")])
    assert kinds(said)[-3:] == ["output_item.done", "error", "failed"]
    assert said[-2]["code"] == "worker_lost"
    assert one.response()["error"] == {"code": "server_error", "message": "it died; try again"}
    assert one.output()[0]["status"] == "incomplete"


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    fed(one := turn(), [finished()])
    assert [item["type"] for item in one.output()] == ["message"]
    assert texts_of(one.output()[0]) == ""


def test_a_call_without_arguments_has_an_empty_object() -> None:
    said = fed(one := turn(), [call(0, "now", ""), finished("tool_calls")])
    assert one.output()[0]["arguments"] == "{}"
    assert [event["delta"] for event in said if event["type"].endswith(".delta")] == ["{}"]


def test_a_custom_tool_gets_the_text_and_not_its_json() -> None:
    events: list[Event] = [call(0, "patch", '{"in'), call(0, "", 'put": "a \\"b\\""}'), finished()]
    one = turn()
    assert kinds(fed(one, events))[2:-1] == [
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
    ]
    (item,) = one.output()
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", 'a "b"')


def test_log_probabilities_have_text_and_bytes_where_they_were_asked_for() -> None:
    one = turn(has_logprobs=True)
    told = TokenLogprobs(1, -0.5, ((1, -0.5), (2, -1.5)))
    said = fed(one, [text("Hi", told), finished()])
    delta = next(event for event in said if event["type"] == "response.output_text.delta")
    expected = [
        {
            "token": "Hi",
            "logprob": -0.5,
            "bytes": [72, 105],
            "top_logprobs": [
                {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]},
                {"token": "\ufffd", "logprob": -1.5, "bytes": [195]},
            ],
        }
    ]
    assert delta["logprobs"] == expected
    assert wire(one.output())[0]["content"][0]["logprobs"] == expected


def test_a_ping_opens_a_stream_that_has_not_begun() -> None:
    encoder = ResponseEncoder(turn())
    assert b"event: response.created\n" in encoder.ping()
    assert encoder.ping() == b": ping\n\n"
    assert b"response.created" not in encoder.feed(text("a"))


def test_sealed_reasoning_comes_back() -> None:
    fed(one := turn(is_sealed=True), [thought("Hm, é"), finished()])
    assert unsealed(one.output()[0]["encrypted_content"]) == "Hm, é"
    assert unsealed("gAAAAABo") is None
    assert unsealed("samovar:?") is None


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("overloaded", "rate_limit_exceeded"),
        ("grammar_rejected", "invalid_prompt"),
        ("context_length_exceeded", "context_length_exceeded"),
        ("native_error", "server_error"),
    ],
)
def test_errors_have_codes_that_clients_know(code: str, told: str) -> None:
    assert error_code(code) == told
