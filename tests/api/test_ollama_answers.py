"""Events of a request as Ollama's records."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ollama import (
    ChatResponse,
    EmbedResponse,
    GenerateResponse,
    ListResponse,
    ProcessResponse,
    ShowResponse,
)

from samovar.api.facts import ModelFacts
from samovar.api.ollama.answers import (
    ChatShape,
    GenerateShape,
    Head,
    RecordCollector,
    RecordEncoder,
    Shape,
    Watch,
    loaded_body,
)
from samovar.api.ollama.models import Loaded, ps_body, show_body, tags_body
from samovar.api.ollama.vectors import EmbedCollector
from samovar.types import (
    Cached,
    Choice,
    Embedded,
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    Timings,
    TokenLogprobs,
    ToolCallDelta,
    Usage,
)
from tests.conftest import scaled

USAGE = Usage(12, 5, Cached(live=3, disk=4), Timings(0.5, 0.25, 1.5, 2.25))


def text(said: str, *tokens: int) -> TextDelta:
    return TextDelta("r", said, tokens)


def thought(said: str, *tokens: int) -> ReasoningDelta:
    return ReasoningDelta("r", said, tokens)


def call(number: int, name: str, arguments: str, *tokens: int) -> ToolCallDelta:
    return ToolCallDelta("r", number, name, arguments, tokens)


def finished(reason: FinishReason = "stop", *warnings: str) -> Finished:
    return Finished("r", (Choice(reason, 1),), USAGE, warnings)


def streamed(events: list[Event], shape: Shape, head: Head | None = None) -> list[dict[str, Any]]:
    encoder = RecordEncoder(head or Head("mini"), shape)
    lines = b"".join(map(encoder.feed, events)).splitlines()
    return [json.loads(line) for line in lines]


def collected(events: list[Event], shape: Shape, head: Head | None = None) -> dict[str, Any]:
    collector = RecordCollector(head or Head("mini"), shape)
    for event in events:
        collector.feed(event)
    found: dict[str, Any] = json.loads(collector.body())
    return found


def test_a_chat_line_by_line() -> None:
    events = [thought("Hm.", 1), text("Hel", 2), text("", 3), text("lo", 4), finished()]
    found = streamed(events, ChatShape())
    messages = [one["message"] for one in found]
    assert messages == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "Hel"},
        {"role": "assistant", "content": "lo"},
        {"role": "assistant", "content": ""},
    ]
    assert [one["done"] for one in found] == [False, False, False, True]
    assert {one["model"] for one in found} == {"mini"}
    for one in found:
        assert ChatResponse(**one).created_at
        assert datetime.fromisoformat(one["created_at"]).tzinfo is not None
    assert found[-1]["done_reason"] == "stop"
    assert found[-1]["prompt_eval_count"] == 12
    assert found[-1]["eval_count"] == 5
    assert found[-1]["prompt_cached_count"] == 7
    assert "warnings" not in found[-1]
    assert "context" not in found[-1]


def test_a_text_line_by_line() -> None:
    found = streamed([thought("Hm.", 1), text("Hello", 2), finished("length")], GenerateShape())
    assert [one["response"] for one in found] == ["", "Hello", ""]
    assert found[0]["thinking"] == "Hm."
    assert found[-1]["done_reason"] == "length"
    assert all(GenerateResponse(**one) for one in found)


def test_a_call_is_told_when_it_is_whole() -> None:
    events = [
        text("Let me see.", 1),
        call(0, "weather", '{"city"', 2),
        call(0, "", ': "Oslo"}', 3),
        call(1, "time", "{}", 4),
        finished("tool_calls"),
    ]
    encoder = RecordEncoder(Head("mini"), ChatShape())
    sizes = [len(encoder.feed(one).splitlines()) for one in events]
    assert sizes == [1, 0, 0, 1, 2]
    calls = [
        made["function"]
        for one in streamed(events, ChatShape())
        for made in one["message"].get("tool_calls", ())
    ]
    assert calls == [
        {"index": 0, "name": "weather", "arguments": {"city": "Oslo"}},
        {"index": 1, "name": "time", "arguments": {}},
    ]
    whole = ChatResponse(**collected(events, ChatShape()))
    assert whole.message.tool_calls is not None
    assert [one.function.name for one in whole.message.tool_calls] == ["weather", "time"]
    assert whole.message.content == "Let me see."
    assert whole.done_reason == "stop"


@pytest.mark.parametrize("arguments", ['{"city": "Os', "[1]", "oops", "[" * 5000])
def test_a_call_that_was_cut_off_is_text(arguments: str) -> None:
    found = collected([call(0, "weather", arguments, 1), finished("length")], ChatShape())
    assert found["message"] == {"role": "assistant", "content": arguments}


def test_a_failure_in_a_stream_is_a_line() -> None:
    encoder = RecordEncoder(Head("mini"), ChatShape())
    assert encoder.feed(Failed("r", "worker_lost", "it died")) == b'{"error":"it died"}\n'
    assert encoder.ping() == b""


def test_context_is_the_prompt_and_all_that_was_generated() -> None:
    head = Head("mini", prompt=[7, 8])
    events = [thought("a", 1, 2), call(0, "f", "{}", 3), text("b", 4), text("", 5), finished()]
    assert streamed(events, GenerateShape(), head)[-1]["context"] == [7, 8, 1, 2, 3, 4, 5]
    assert collected(events, GenerateShape(), head)["context"] == [7, 8, 1, 2, 3, 4, 5]


def test_warnings_stand_in_the_last_record() -> None:
    head = Head("mini", warnings=["num_ctx: ignored"])
    found = streamed([text("a", 1), finished("stop", "the schema is lenient")], ChatShape(), head)
    assert found[-1]["warnings"] == ["num_ctx: ignored", "the schema is lenient"]
    assert "warnings" not in found[0]


def test_durations_add_up() -> None:
    ticks = iter([1_000, 4_000, 5_000, 10**12])
    watch = Watch(lambda: next(ticks))
    watch.loaded()
    soon, late = watch.durations(USAGE), watch.durations(USAGE)
    for one in (soon, late):
        parts = ("load_duration", "prompt_eval_duration", "eval_duration")
        assert one["total_duration"] >= sum(one[part] for part in parts)
    assert soon["load_duration"] == 3_000
    assert soon["prompt_eval_duration"] == 1_750_000_000
    assert soon["eval_duration"] == 2_250_000_000
    assert late["total_duration"] == 10**12 - 1_000


def test_logprobs() -> None:
    head = Head("mini", pieces={1: b"a", 2: b"\xc3"})
    logprobs = (TokenLogprobs(1, -0.5, ((1, -0.5), (2, -math.inf))),)
    (found, _) = streamed([TextDelta("r", "a", (1,), 0, logprobs), finished()], ChatShape(), head)
    (one,) = found["logprobs"]
    assert (one["token"], one["logprob"], one["bytes"]) == ("a", -0.5, [97])
    assert one["top_logprobs"][1] == {"token": "\ufffd", "logprob": -9999.0, "bytes": [195]}
    parsed = ChatResponse(**found)
    assert parsed.logprobs is not None


def test_loading() -> None:
    chat = ChatResponse(**json.loads(loaded_body(Head("mini"), ChatShape(), "load")))
    assert (chat.done, chat.done_reason, chat.message.content) == (True, "load", "")
    text_ = GenerateResponse(**json.loads(loaded_body(Head("mini"), GenerateShape(), "unload")))
    assert (text_.done, text_.done_reason, text_.response) == (True, "unload", "")


DELTAS = st.one_of(
    st.builds(text, st.text(max_size=5), st.integers(0, 99)),
    st.builds(thought, st.text(max_size=5), st.integers(0, 99)),
    st.builds(
        call,
        st.integers(0, 2),
        st.sampled_from(["f", ""]),
        st.sampled_from(["{}", '{"a": ', "1}", "x", ""]),
        st.integers(0, 99),
    ),
)


@given(st.lists(DELTAS, max_size=12), st.sampled_from(["stop", "length", "tool_calls"]))
@settings(max_examples=scaled(200, 10_000), deadline=None)
def test_a_stream_says_what_the_whole_says(deltas: list[Event], reason: FinishReason) -> None:
    events = [*deltas, finished(reason)]
    for shape in (ChatShape(), GenerateShape()):
        lines = streamed(events, shape, Head("mini", prompt=[1]))
        whole = collected(events, shape, Head("mini", prompt=[1]))
        assert [one["done"] for one in lines[:-1]] == [False] * (len(lines) - 1)
        assert lines[-1]["done"]
        parts = [one.get("message", one) for one in lines]
        total = whole.get("message", whole)
        for name in ("content", "response", "thinking"):
            joined = "".join(part.get(name, "") for part in parts)
            assert joined == total.get(name, "")
        calls = [one for part in parts for one in part.get("tool_calls", ())]
        assert calls == total.get("tool_calls", [])
        assert lines[-1]["context"] == whole["context"]
        said = "".join(one.text for one in deltas if isinstance(one, TextDelta))
        assert set(said) <= set(total.get("content", total.get("response", "")))


# ---- models --------------------------------------------------------------------------------------

FACTS = ModelFacts(
    "mini",
    modified=1_700_000_000,
    size_bytes=4_000_000,
    digest="ab" * 32,
    architecture="llama",
    num_params=4_213_504,
    params_label="4.2M",
    quantization="Q8_0",
    context_length=2048,
    embedding_width=256,
    capabilities=("completion", "tools"),
    template="{{ messages }}",
    license="MIT",
)
BROKEN = ModelFacts("broken", problem="broken.gguf does not exist: check the path")


def test_tags() -> None:
    body = json.loads(tags_body([BROKEN, FACTS]))
    found = ListResponse(**body).models
    assert [one.model for one in found] == ["mini", "broken"]
    assert found[0].size == 4_000_000
    assert found[0].modified_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert found[0].details is not None
    assert found[0].details.parameter_size == "4.2M"
    assert found[0].details.families == ["llama"]
    assert body["models"][0]["name"] == "mini"
    assert body["models"][1]["problem"] == BROKEN.problem
    assert {len(one["digest"]) for one in body["models"]} == {64}  # `ollama list` cuts them


def test_ps() -> None:
    loaded = [Loaded(FACTS, 1024, 60.0), Loaded(FACTS, 1024, None)]
    for_ever, soon = ProcessResponse(**json.loads(ps_body(loaded, now=1_000.0))).models
    assert soon.expires_at == datetime.fromtimestamp(1_060, UTC)
    assert for_ever.expires_at is not None
    assert for_ever.expires_at.year > 2060
    assert (soon.name, soon.context_length, soon.size_vram) == ("mini", 1024, 0)


def test_show() -> None:
    metadata = {"general.architecture": "llama", "tokenizer.chat_template": "x", "a.b": None}
    found = ShowResponse(**json.loads(show_body(FACTS, metadata, 2048)))
    assert found.template == "{{ messages }}"
    assert found.capabilities == ["completion", "tools"]
    assert found.license == "MIT"
    assert found.parameters == "num_ctx 2048"
    assert found.modelinfo == {
        "general.architecture": "llama",
        "general.parameter_count": 4_213_504,
        "a.b": None,
    }


# ---- vectors -------------------------------------------------------------------------------------


def vectors(rows: list[list[float]], dimensions: int | None) -> np.ndarray:
    collector = EmbedCollector("mini", Watch(), dimensions)
    collector.feed(Embedded("r", np.array(rows, np.float32), USAGE))
    body = EmbedResponse(**json.loads(collector.body()))
    assert body.prompt_eval_count == 12
    assert body.total_duration is not None
    return np.array(body.embeddings)


def test_vectors_as_they_are() -> None:
    rows = [[0.6, 0.8], [1, 0]]
    assert vectors(rows, None) == pytest.approx(np.array(rows))
    assert vectors([[0.6, 0.8]], 5).shape == (1, 2)


def test_shorter_vectors_have_length_1_again() -> None:
    found = vectors([[3, 4, 12], [0, 0, 1]], 2)
    assert found[0] == pytest.approx([0.6, 0.8])
    assert found[1].tolist() == [0, 0]


def test_no_texts_no_vectors() -> None:
    body = json.loads(EmbedCollector("mini", Watch(), None).body())
    assert EmbedResponse(**body).embeddings == []


@pytest.mark.parametrize("shape", [ChatShape(), GenerateShape()])
def test_a_text_is_in_its_record_whatever_it_and_the_model_are_called(shape: Shape) -> None:
    mark = '"created_at":"","response":""'
    encoder = RecordEncoder(Head(f"m{mark}"), shape)
    for said in ("a", mark, 'é"\\\n'):
        record = json.loads(encoder.feed(text(said, 1)))
        found = record["message"]["content"] if "message" in record else record["response"]
        assert found == said
        assert record["model"] == f"m{mark}"
        assert not record["done"]
        assert datetime.fromisoformat(record["created_at"]).tzinfo is not None
