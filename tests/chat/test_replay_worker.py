"""Through a real worker: a conversation of five turns with calls, sent back as SDKs send it.

What a turn computes anew is what the client adds to it: the model's own words come from the cache.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from samovar import models as built_in
from samovar.config import CacheConfig, RuntimeConfig, WorkerConfig
from samovar.runtime.runtime import Runtime
from samovar.types import (
    Chat,
    Event,
    Finished,
    GenerateRequest,
    Message,
    ReasoningDelta,
    Replayed,
    SamplingParams,
    TextDelta,
    Tool,
    ToolCallDelta,
)
from tests.chat.turns import tool
from tests.conftest import FULL_SCALE
from tests.runtime.serving import nothing_left_behind

pytestmark = pytest.mark.native

CONFIG = RuntimeConfig(first_backoff=0.001, keep_alive_seconds=None)
WORKER = WorkerConfig(context_length=2048, num_sequences=2, threads=1)
TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
TOOLS = [
    tool("get_weather", {"city": TEXT}, ["city"]),
    tool("set_light", {"room": TEXT, "state": {"type": "string", "enum": ["on", "off"]}}, ["room"]),
    tool("send_message", {"to": TEXT, "text": TEXT}, ["to", "text"]),
    tool("add", {"a": WHOLE, "b": WHOLE}, ["a", "b"]),
]
QUESTIONS = (
    "Tell Mia: I am late.",
    "How is the weather in London and in Rome?",
    "Turn on the light in the kitchen.",
    "What is 12 plus 30?",
    "What is the weather in Paris?",
)
STORIES = tuple(f"Tell me a story about a {one}." for one in ("fox", "cat", "bird", "dog"))
HOT = SamplingParams(
    temperature=6.0,
    top_k=100,
    logit_bias=dict.fromkeys((*range(2), *range(3, 9), *range(103, 231)), -math.inf),
)
"""Draws words in pieces that no tokenizer would choose; no markers, and no parts of characters."""
RESULTS: dict[str, dict[str, Any]] = {
    "get_weather": {"temperature": 20, "sky": "sunny"},
    "set_light": {"status": "done"},
    "send_message": {"status": "done"},
    "add": {"result": 42},
}


def _with_arguments(message: Message, spell: Callable[[dict[str, Any]], Any]) -> Message:
    calls = [
        {
            **call,
            "function": {**call["function"], "arguments": spell(call["function"]["arguments"])},
        }
        for call in message.get("tool_calls", [])
    ]
    return {**message, "tool_calls": calls} if calls else message


def as_openai_sends(message: Message) -> Message:
    """Arguments as compact JSON, no content beside calls, no reasoning."""
    found = {key: value for key, value in message.items() if key != "reasoning_content"}
    if found.get("tool_calls"):
        found["content"] = None
    return _with_arguments(found, lambda one: json.dumps(one, separators=(",", ":")))


def as_anthropic_sends(message: Message) -> Message:
    """Arguments as an object with its keys turned about; reasoning kept; text in parts."""
    found = _with_arguments(message, lambda one: dict(reversed(one.items())))
    return {**found, "content": [{"type": "text", "text": message["content"]}]}


def as_ollama_sends(message: Message) -> Message:
    """Arguments as an object; calls without ids; reasoning under another name."""
    found = dict(message)
    if "reasoning_content" in found:
        found["thinking"] = found.pop("reasoning_content")
    for call in found.get("tool_calls", []):
        call.pop("id", None)
    return found


def as_indented(message: Message) -> Message:
    """Arguments as JSON over several lines, with escapes."""
    return _with_arguments(message, lambda one: json.dumps(one, indent=4, ensure_ascii=True))


def ignore(_: Event) -> None:
    """Nobody notices an event."""


@dataclass
class Talk:
    """A conversation with a model behind a runtime, as a client of some kind leads it."""

    runtime: Runtime
    sends: Callable[[Message], Message]
    replays: bool = True
    sampling: SamplingParams = field(default_factory=SamplingParams)
    tools: tuple[Tool, ...] = tuple(TOOLS)
    tenant: str = ""
    messages: list[Message] = field(default_factory=list)
    ends: list[Finished] = field(default_factory=list)
    calls: int = 0
    notices: Callable[[Event], None] = ignore

    async def say(self, question: str, **more: Any) -> None:  # noqa: ANN401
        """A question, and all turns until it is answered."""
        self.messages.append({"role": "user", "content": question})
        while calls := await self._turn(**more):
            for call in calls:
                found = json.dumps(RESULTS[call["function"]["name"]])
                self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": found})
            assert len(self.ends) < 40

    async def _turn(self, **more: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        chat = Chat(tuple(self.messages), self.tools, replays=self.replays)
        number = len(self.ends)
        request = GenerateRequest(
            f"{self.tenant}{self.sends.__name__}{number}",
            "",
            replace(self.sampling, seed=number),
            max_tokens=100,
            tenant=self.tenant,
            chat=chat,
            **more,
        )
        message = await self._heard(request)
        self.calls += len(message.get("tool_calls", []))
        told = json.loads(json.dumps(message))
        self.messages.append(self.sends(message))
        calls: list[dict[str, Any]] = told.get("tool_calls", [])
        return calls

    async def _heard(self, request: GenerateRequest) -> Message:
        """The message that a client is told."""
        message: Message = {"role": "assistant", "content": ""}
        calls: list[dict[str, Any]] = []
        async for event in self.runtime.generate("m", request):
            self.notices(event)
            take(event, message, calls)
            if isinstance(event, Finished):
                self.ends.append(event)
        assert self.ends
        assert self.ends[-1].request_id == request.request_id
        for number, call in enumerate(calls):
            call["id"] = f"{request.request_id}-{number}"
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        return {**message, "tool_calls": calls} if calls else message

    @property
    def report(self) -> Replayed:
        """Of the last prompt."""
        assert self.ends[-1].replayed is not None
        return self.ends[-1].replayed

    @property
    def shares(self) -> list[float]:
        """Of each prompt after the first: which part of it was not computed."""
        return [end.usage.cached.total / end.usage.prompt_tokens for end in self.ends[1:]]

    @property
    def known(self) -> list[float]:
        """Of what the last prompt and its answer held: which part was not computed again."""
        return [
            end.usage.cached.total / (before.usage.prompt_tokens + before.usage.generated_tokens)
            for before, end in zip(self.ends, self.ends[1:], strict=False)
        ]


def take(event: Event, message: Message, calls: list[dict[str, Any]]) -> None:
    """One event more of an answer."""
    if isinstance(event, TextDelta):
        message["content"] += event.text
    elif isinstance(event, ReasoningDelta):
        message["reasoning_content"] = message.get("reasoning_content", "") + event.text
    elif isinstance(event, ToolCallDelta):
        if event.call == len(calls):
            calls.append({"type": "function", "function": {"name": event.name, "arguments": ""}})
        calls[event.call]["function"]["arguments"] += event.arguments


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Runtime]:
    """samovar-mini with a cache on disk."""
    cache = CacheConfig(directory=folder / "kv", block_size=16, min_tokens=16, memory_bytes=2**25)
    async with nothing_left_behind(), Runtime(CONFIG) as runtime:
        await runtime.load("m", str(built_in.path_of("samovar-mini")), WORKER, cache)
        yield runtime


async def whole(talk: Talk, questions: Sequence[str] = QUESTIONS) -> Talk:
    """A conversation of all questions."""
    for question in questions:
        await talk.say(question)
    return talk


def figures(name: str, talk: Talk, without: Talk) -> None:
    """Those of docs/stability.md: the least share, and the mean."""
    shares = (talk.known, talk.shares, without.known, without.shares)
    told = "  ".join(f"{min(one):.3f} {sum(one) / len(one):.3f}" for one in shares)
    print(f"\n{name}: {len(talk.ends)} prompts, on {told}")  # noqa: T201 - shown with -s


@pytest.mark.parametrize(
    "sends", [as_openai_sends, as_anthropic_sends, as_ollama_sends, as_indented]
)
def test_the_models_own_words_come_from_the_cache(
    tmp_path: Path, sends: Callable[[Message], Message]
) -> None:
    async def main() -> None:
        async with served(tmp_path) as runtime:
            talk = await whole(Talk(runtime, sends))
            assert talk.calls >= len(QUESTIONS), "the model was meant to call"
            assert min(talk.known) >= 0.99
            for number, end in enumerate(talk.ends):
                report = end.replayed
                assert isinstance(report, Replayed)
                assert report.turns == len(report.replayed) == number
                assert not report.refused
            if FULL_SCALE:
                without = await whole(Talk(runtime, sends, replays=False, tenant="off"))
                figures(sends.__name__, talk, without)

    asyncio.run(main())


def test_tokens_that_were_drawn_are_not_what_their_text_would_be(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as runtime:
            more: dict[str, Any] = {"sampling": HOT, "tools": ()}
            talk = await whole(Talk(runtime, as_openai_sends, **more), STORIES)
            without = await whole(
                Talk(runtime, as_openai_sends, replays=False, tenant="off", **more), STORIES
            )
            figures("drawn", talk, without)
            assert min(talk.known) >= 0.95
            assert min(without.known) < 0.9

    asyncio.run(main())


def test_turns_outlive_the_process(tmp_path: Path) -> None:
    async def main() -> None:
        more: dict[str, Any] = {"sampling": HOT, "tools": ()}
        async with served(tmp_path) as runtime:
            talk = await whole(Talk(runtime, as_openai_sends, **more), STORIES[:2])
            events = 0

            def kill(_: Event) -> None:
                nonlocal events
                events += 1
                if events == 5:
                    os.kill(runtime.status()["m"]["pid"], signal.SIGKILL)

            talk.notices = kill
            await talk.say(STORIES[2])  # taken up again by another process
            talk.notices = ignore
            assert runtime.status()["m"]["restarts"] == 1
            assert talk.ends[-1].replayed == replayed(talk, 2)
        async with served(tmp_path) as runtime:  # everything is new but the directory
            talk.runtime = runtime
            await talk.say(STORIES[3])
            assert talk.ends[-1].replayed == replayed(talk, 3)
            assert talk.known[-1] >= 0.95

    asyncio.run(main())


def replayed(talk: Talk, turns: int) -> Replayed:
    """The report of a prompt in which so many turns stand, and all are replayed."""
    generated = sum(one.usage.generated_tokens for one in talk.ends[:turns])
    ended = sum(one.choices[0].reason == "stop" for one in talk.ends[:turns])
    numbers = tuple(range(1, 2 * turns, 2))
    return Replayed(turns, numbers, generated - ended)


def test_what_may_not_be_stored_is_not_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as runtime:
            talk = Talk(runtime, as_openai_sends, tools=())
            await talk.say(STORIES[0], is_stored=False)
            await talk.say(STORIES[1])
            assert talk.ends[-1].replayed == Replayed(1)
            await talk.say(STORIES[2])
            assert talk.report.replayed == (3,)
            other = Talk(runtime, as_openai_sends, tools=(), tenant="other")
            other.messages = talk.messages[:]
            await other.say(STORIES[3])
            assert other.ends[-1].replayed == Replayed(3)

    asyncio.run(main())


@pytest.mark.parametrize("sends", [as_openai_sends, as_ollama_sends])
def test_reasoning_that_the_template_drops_is_not_put_back(
    tmp_path: Path, sends: Callable[[Message], Message]
) -> None:
    async def main() -> None:
        async with served(tmp_path) as runtime:
            talk = Talk(runtime, sends, tools=())
            await talk.say("Tom has 5 apples and gets 7 more. How many does he have?")
            assert ("thinking" in talk.messages[1]) == (sends is as_ollama_sends)
            await talk.say("What does a cow say?")
            assert talk.ends[-1].replayed == Replayed(1, refused=((1, "reasoning"),))
            await talk.say("What does a dog say?")
            assert talk.report.replayed == (3,)
            assert talk.known[-1] >= 0.95  # what was tokenized anew once stays

    asyncio.run(main())
