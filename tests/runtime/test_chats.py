"""A conversation outlives its worker: text, reasoning and calls are what they would have been."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from samovar.config import RuntimeConfig, WorkerConfig
from samovar.runtime.runtime import Runtime
from samovar.types import (
    Chat,
    Event,
    Finished,
    GenerateRequest,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from tests.chat.turns import tool

pytestmark = pytest.mark.native

CONFIG = RuntimeConfig(first_backoff=0.001, restarts=100, keep_alive_seconds=None)
WORKER = WorkerConfig(threads=1, context_length=512, num_sequences=4)
TOOLS = (tool("get_weather", {"city": {"type": "string", "description": "The city"}}, ["city"]),)
TRIES = 30  # to kill it in the midst: its steps take a millisecond
WITHIN = {
    "reasoning": Chat(
        ({"role": "user", "content": "Tom has 5 apples and gets 7 more. How many does he have?"},)
    ),
    "call": Chat(
        ({"role": "user", "content": "How is the weather in London and in Rome?"},), TOOLS
    ),
}


async def events_of(runtime: Runtime, chat: Chat, *, is_killed: bool) -> list[Event]:
    """Everything that comes; the worker may be killed with the third delta of each choice."""
    request = GenerateRequest("r", "", chat=chat, max_tokens=100, choices=3)
    found: list[Event] = []
    async for event in runtime.generate("m", request):
        found.append(event)
        if is_killed and len(found) == 1 + 3 * 3:
            os.kill(runtime.status()["m"]["pid"], signal.SIGKILL)
    return found


def said(events: list[Event]) -> list[tuple[str, str, list[tuple[str, str]], tuple[int, ...]]]:
    """By choice: text, reasoning, calls, ids."""
    end = events[-1]
    assert isinstance(end, Finished), end
    found = []
    for choice in range(len(end.choices)):
        own = [
            one
            for one in events[:-1]
            if isinstance(one, TextDelta | ReasoningDelta | ToolCallDelta) and one.choice == choice
        ]
        calls = [(one.name, one.arguments) for one in own if isinstance(one, ToolCallDelta)]
        text = "".join(one.text for one in own if isinstance(one, TextDelta))
        reasoning = "".join(one.text for one in own if isinstance(one, ReasoningDelta))
        found.append((text, reasoning, calls, tuple(t for one in own for t in one.tokens)))
    return found


@pytest.mark.parametrize("kind", WITHIN)
def test_what_was_said_goes_on_after_a_kill(kind: str) -> None:
    chat = WITHIN[kind]

    async def run() -> None:
        async with Runtime(CONFIG) as runtime:
            await runtime.load("m", "samovar-mini", WORKER)
            for _ in range(TRIES):
                whole = said(await events_of(runtime, chat, is_killed=False))
                events = await events_of(runtime, chat, is_killed=True)
                assert said(events) == whole
                end = events[-1]
                assert isinstance(end, Finished)
                if not end.usage.cached.live:  # a worker that had not seen the prompt ended it
                    return
            raise AssertionError("it was always too late")

    asyncio.run(run())
