"""LiteLLM, in the dialect that is named: `openai`, `anthropic` or `ollama_chat`."""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm
from questions import FUNCTION, MODEL, QUESTIONS, TOO_LONG, called, error_of, report, told, user

URL, DIALECT = sys.argv[1:]
BASE = f"{URL}/v1" if DIALECT == "openai" else URL
FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": QUESTIONS["form"]}}


def ask(messages: Any, model: str = MODEL, **more: Any) -> Any:  # noqa: ANN401
    """A completion, greedy."""
    given = {"api_base": BASE, "api_key": "none", "temperature": 0, "max_tokens": 64, **more}
    return litellm.completion(f"{DIALECT}/{model}", messages, num_retries=0, **given)


def answer() -> Any:  # noqa: ANN401
    """Text in one piece."""
    whole = ask(user(QUESTIONS["hello"]))
    usage = whole.usage
    return told(whole.choices[0].message.content, usage.prompt_tokens, usage.completion_tokens)


def stream() -> Any:  # noqa: ANN401
    """The same in pieces."""
    options = {"include_usage": True}
    chunks = list(ask(user(QUESTIONS["hello"]), stream=True, stream_options=options))
    pieces = [text for one in chunks for choice in one.choices if (text := choice.delta.content)]
    (usage,) = [one.usage for one in chunks if getattr(one, "usage", None)]
    text = "".join(pieces)
    return told(text, usage.prompt_tokens, usage.completion_tokens, len(pieces))


def call() -> Any:  # noqa: ANN401
    """A call, its result, and what is said of it."""
    asked = user(QUESTIONS["weather"])
    message = ask(asked, tools=[FUNCTION], tool_choice="required").choices[0].message
    (one,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": one.id, "content": QUESTIONS["result"]}
    said = ask([*asked, message.model_dump(), result], tools=[FUNCTION])
    arguments = json.loads(one.function.arguments)
    return called(one.function.name, arguments, said.choices[0].message.content)


def streamed_call() -> Any:  # noqa: ANN401
    """A call in pieces, which LiteLLM puts together."""
    asked = user(QUESTIONS["weather"])
    chunks = list(ask(asked, tools=[FUNCTION], tool_choice="required", stream=True))
    whole: Any = litellm.stream_chunk_builder(chunks)
    (one,) = whole.choices[0].message.tool_calls
    return called(one.function.name, json.loads(one.function.arguments), "")


def form() -> Any:  # noqa: ANN401
    """An answer that keeps to a schema."""
    return json.loads(ask(user(QUESTIONS["cow"]), response_format=FORM).choices[0].message.content)


if __name__ == "__main__":
    report(
        {
            "answer": answer,
            "stream": stream,
            "call": call,
            "streamed_call": streamed_call,
            "form": form,
            "too_long": lambda: error_of(lambda: ask(user(TOO_LONG))),
            "missing": lambda: error_of(lambda: ask(user("Hi"), model="no-such-model")),
        }
    )
