"""OpenAI's client at a server of the tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import openai
from openai.types.chat import ChatCompletionChunk

MODEL = "samovar-mini"
QUESTION: Any = [{"role": "user", "content": "Hello! Who are you?"}]


def client_of(url: str, **options: Any) -> openai.OpenAI:  # noqa: ANN401
    """A client that does not try again what failed."""
    given = {"api_key": "none", "max_retries": 0, "timeout": 120.0, **options}
    return openai.OpenAI(base_url=f"{url}/v1", **given)


def answer_of(chunks: Iterable[ChatCompletionChunk], index: int = 0) -> str:
    """The text of one choice."""
    found = [choice for one in chunks for choice in one.choices if choice.index == index]
    return "".join(one.delta.content or "" for one in found)
