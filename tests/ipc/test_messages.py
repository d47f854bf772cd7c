"""What is said over the wall arrives as it was said."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from samovar.config import CacheConfig, WorkerConfig
from samovar.errors import InvalidRequest
from samovar.ipc import messages as ipc
from samovar.ipc.requests import Request, pack_request, unpack_request
from samovar.types import (
    Begun,
    Cached,
    Chat,
    Choice,
    Divergence,
    EmbedRequest,
    Failed,
    Finished,
    GenerateRequest,
    Grammar,
    Ranked,
    RankRequest,
    SamplingParams,
    TextDelta,
    Timings,
    TokenLogprobs,
    ToolChoice,
    Usage,
    Verified,
    VerifyRequest,
)

SAMPLING = SamplingParams(
    grammar=Grammar("json_schema", '{"type": "integer"}'),
    logit_bias={3: -math.inf, 7: 1.5},
    dry_sequence_breakers=("\n", "é"),
    temperature=0.7,
    seed=2**64 - 1,
    logprobs=3,
)
REQUESTS: list[Request] = [
    GenerateRequest("a", "text with é and 🫖"),
    GenerateRequest("a", b"\xff\x00 no UTF-8"),
    GenerateRequest("a", (1, 2, 3), SAMPLING, stop=("x", "y"), stop_tokens=(4,), choices=2),
    GenerateRequest("a", "x", SamplingParams(grammar="root ::= 'a'"), adapters=(("r", 0.5),)),
    GenerateRequest("a", "x", generated=((1, 2), ()), choices=2, is_stored=False, cache_salt=""),
    GenerateRequest("a", (), session="s", continues=True, expect_committed=(1, 2)),
    GenerateRequest(
        "a",
        "",
        chat=Chat(
            ({"role": "user", "content": [{"type": "text", "text": "x"}], "n": None},),
            tools=({"type": "function", "function": {"name": "f", "parameters": {"a": [1]}}},),
            tool_choice=ToolChoice("required", is_parallel=False),
            thinks=False,
            variables={"today": ["a", 1.5]},
        ),
    ),
    VerifyRequest("v", (1, 2), (3, 4), timeout_seconds=0.5),
    EmbedRequest("e", ("text", b"\xfe", (1, 2)), pooling="mean", normalizes=False),
    RankRequest("r", "query", ("one", b"two", (3,)), priority=-1),
]
USAGE = Usage(5, 3, Cached(1, 2, 0, 2), Timings(0.1, 0.2, 0.3, 0.4), Divergence(4, "evicted"))
EVENTS: list[ipc.WireEvent] = [
    Begun("a", 5, Cached(1, 2, 0, 2), Divergence(4, "evicted")),
    Begun("a", 5),
    TextDelta("a", "é", (1,), 1, (TokenLogprobs(1, -0.5, ((2, -1.0),)),)),
    Finished("a", (Choice("stop", 2**64 - 1, "x"), Choice("stop", 1, 7)), USAGE, ("careful",)),
    Verified("v", 2, 3, USAGE),
    Ranked("r", (0.5, -1.0), USAGE),
    Failed("f", "overloaded", "try again", retryable=True, retry_after_seconds=1.5),
]
REPORTS: list[ipc.Report] = [
    ipc.Hello(1, "0.1", 7),
    ipc.Progress(0.5),
    ipc.Ready("llama", 512, 4, "lanes", "divisible", has_template=True, load_seconds=0.5),
    ipc.BootFailed("out_of_memory", "too large"),
    ipc.Output(tuple(EVENTS)),
    ipc.Vectors("e", 2, 3, USAGE),
    ipc.Answer(1, [1, "two", {"three": None}]),
    ipc.Answer(2, None, "invalid_request", "no"),
    ipc.Pong(3, 0.25, 1, 2),
    ipc.Stopped(is_saved=True),
]
COMMANDS: list[ipc.Command] = [
    ipc.Load("m.gguf", WorkerConfig(threads=3), CacheConfig(directory=Path("/kv"))),
    ipc.Load("m.gguf", WorkerConfig(), None),
    ipc.Cancel("a"),
    ipc.Call(1, "tokenize", {"text": b"\xff"}),
    ipc.Ping(1),
    ipc.Stop(1.5),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
def test_requests_arrive_as_they_were_sent(request_: Request) -> None:
    sent = ipc.ENCODER.encode(ipc.Submit(*pack_request(request_)))
    found = ipc.COMMANDS.decode(sent)
    assert isinstance(found, ipc.Submit)
    assert unpack_request(found.kind, found.values) == request_


@pytest.mark.parametrize("report", REPORTS, ids=lambda one: type(one).__name__)
def test_reports_arrive_as_they_were_sent(report: ipc.Report) -> None:
    assert ipc.REPORTS.decode(ipc.ENCODER.encode(report)) == report


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: type(one).__name__)
def test_commands_arrive_as_they_were_sent(command: ipc.Command) -> None:
    assert ipc.COMMANDS.decode(ipc.ENCODER.encode(command)) == command


def test_a_request_of_no_sense_is_an_error_of_ours() -> None:
    with pytest.raises(ValueError, match="kind"):
        unpack_request("pray", {})
    with pytest.raises(InvalidRequest):
        unpack_request("generate", {"request_id": "", "prompt": "x"})
