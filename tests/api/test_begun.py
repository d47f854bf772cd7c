"""No dialect but Anthropic's says anything of a prompt before something was generated."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from samovar.api.anthropic.answer import AnswerTo
from samovar.api.anthropic.collector import MessageCollector
from samovar.api.anthropic.encoder import MessagesEncoder
from samovar.api.anthropic.signing import Signer
from samovar.api.ollama import answers as ollama
from samovar.api.openai.chat_body import ChatCollector
from samovar.api.openai.chat_output import ChatForm, Head
from samovar.api.openai.chat_stream import ChatEncoder
from samovar.api.openai.completion_output import (
    CompletionCollector,
    CompletionEncoder,
    CompletionForm,
)
from samovar.api.openai.responses import turn as responses
from samovar.api.openai.responses.encode import ResponseCollector, ResponseEncoder
from samovar.api.wire import Collector, Encoder
from samovar.types import Begun, Cached, Choice, Divergence, Event, Finished, TextDelta, Usage

BEGUN = Begun("r", 7, Cached(live=2, disk=3), Divergence(5, "new"))
REST: list[Event] = [
    TextDelta("r", "hello", (1, 2)),
    Finished("r", (Choice("stop", 4),), Usage(7, 2, Cached(live=2, disk=3))),
]
HEAD = Head("id", 100, "m")
FORM = CompletionForm(("r",))
ANSWER, SIGNER = AnswerTo("msg_1", "m", 9), Signer(b"k" * 32)


def _turn() -> responses.Turn:
    numbers = itertools.count()
    head = responses.Head("resp_1", 100, {"model": "m"})
    return responses.Turn(head, lambda prefix: f"{prefix}{next(numbers)}", lambda: 107)


def _ollama() -> tuple[ollama.Head, ollama.Shape]:
    return ollama.Head("m", ollama.Watch(lambda: 0)), ollama.ChatShape()


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "anthropic": lambda: MessagesEncoder(ANSWER, SIGNER),
    "chat": lambda: ChatEncoder(HEAD, ChatForm()),
    "completions": lambda: CompletionEncoder(HEAD, FORM),
    "ollama": lambda: ollama.RecordEncoder(*_ollama()),
    "responses": lambda: ResponseEncoder(_turn()),
}
COLLECTORS: dict[str, Callable[[], Collector]] = {
    "anthropic": lambda: MessageCollector(ANSWER, SIGNER),
    "chat": lambda: ChatCollector(HEAD, ChatForm()),
    "completions": lambda: CompletionCollector(HEAD, FORM),
    "ollama": lambda: ollama.RecordCollector(*_ollama()),
    "responses": lambda: ResponseCollector(_turn()),
}


@pytest.mark.parametrize("dialect", ENCODERS)
def test_a_stream_says_nothing_of_it_when_it_comes(dialect: str) -> None:
    encoder, other = ENCODERS[dialect](), ENCODERS[dialect]()
    assert encoder.feed(BEGUN) == b""
    if dialect not in ("anthropic", "ollama"):  # one tells it with what follows, one the time
        assert [encoder.feed(one) for one in REST] == [other.feed(one) for one in REST]


@pytest.mark.parametrize("dialect", COLLECTORS)
def test_a_body_is_the_same_with_and_without_it(dialect: str) -> None:
    bodies: list[dict[str, Any]] = []
    for events in ([BEGUN, *REST], REST):
        collector = COLLECTORS[dialect]()
        for event in events:
            collector.feed(event)
        body = json.loads(collector.body())
        body.pop("created_at", None)
        bodies.append(body)
    assert bodies[0] == bodies[1]


def test_a_response_that_has_begun_is_still_opened_by_a_sign_of_life() -> None:
    encoder = ResponseEncoder(_turn())
    assert encoder.feed(BEGUN) == b""
    assert encoder.ping().startswith(b"event: response.created\n")
