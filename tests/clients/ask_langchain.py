"""LangChain, with the package that is named: `openai`, `responses`, `anthropic` or `ollama`."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Iterable
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from questions import FUNCTION, MODEL, QUESTIONS, TOO_LONG, called, error_of, report, told

URL, DIALECT = sys.argv[1:]


def model_of(name: str = MODEL) -> BaseChatModel:
    """A chat model of the dialect, greedy."""
    if DIALECT == "ollama":
        return ChatOllama(base_url=URL, model=name, temperature=0, num_predict=64)
    if DIALECT == "anthropic":
        given: dict[str, Any] = {"base_url": URL, "api_key": "none", "model": name}
        return ChatAnthropic(**given, temperature=0, max_tokens=64, max_retries=0)
    given = {"base_url": f"{URL}/v1", "api_key": "none", "model": name}
    return ChatOpenAI(
        **given,
        temperature=0,
        max_tokens=64,
        max_retries=0,
        use_responses_api=DIALECT == "responses",
        stream_usage=True,
    )


CHAT = model_of()


def seen(message: AIMessage, pieces: int = 1) -> Any:  # noqa: ANN401
    """What a message says, and what it cost."""
    usage = message.usage_metadata
    assert usage is not None
    return told(message.text, usage["input_tokens"], usage["output_tokens"], pieces)


def added(pieces: Iterable[Any]) -> Any:  # noqa: ANN401
    """The message that pieces are of."""
    return functools.reduce(operator.add, pieces)


def stream() -> Any:  # noqa: ANN401
    """Text in pieces."""
    pieces = list(CHAT.stream(QUESTIONS["hello"]))
    whole = added(pieces)
    return seen(whole, sum(bool(one.text) for one in pieces))


def bound() -> Any:  # noqa: ANN401
    """The model with the function; it has to call it, where the dialect can say so."""
    if DIALECT == "ollama":
        return CHAT.bind_tools([FUNCTION])
    return CHAT.bind_tools([FUNCTION], tool_choice="any")


def call() -> Any:  # noqa: ANN401
    """A call, its result, and what is said of it."""
    question = HumanMessage(QUESTIONS["weather"])
    message = bound().invoke([question])
    (one,) = message.tool_calls
    result = ToolMessage(QUESTIONS["result"], tool_call_id=one["id"])
    said = CHAT.bind_tools([FUNCTION]).invoke([question, message, result])
    return called(one["name"], one["args"], said.text)


def streamed_call() -> Any:  # noqa: ANN401
    """A call in pieces."""
    (found,) = added(bound().stream(QUESTIONS["weather"])).tool_calls
    return called(found["name"], found["args"], "")


def form() -> Any:  # noqa: ANN401
    """An answer that keeps to a schema."""
    formed = CHAT.with_structured_output(QUESTIONS["form"], method="json_schema")
    return formed.invoke(QUESTIONS["cow"])


def vectors() -> Any:  # noqa: ANN401
    """How many numbers the vectors of two texts have."""
    if DIALECT == "ollama":
        made: Any = OllamaEmbeddings(base_url=URL, model=MODEL)
    else:
        given: dict[str, Any] = {"base_url": f"{URL}/v1", "api_key": "none", "model": MODEL}
        made = OpenAIEmbeddings(**given, check_embedding_ctx_length=False)
    return [len(one) for one in made.embed_documents(["a", "b"])]


if __name__ == "__main__":
    report(
        {
            "answer": lambda: seen(CHAT.invoke(QUESTIONS["hello"])),
            "stream": stream,
            "call": call,
            "streamed_call": streamed_call,
            "form": form,
            "too_long": lambda: error_of(lambda: CHAT.invoke(TOO_LONG)),
            "missing": lambda: error_of(lambda: model_of("no-such-model").invoke("Hi")),
            "vectors": vectors,
        }
    )
