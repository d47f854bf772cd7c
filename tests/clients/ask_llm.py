"""llm, which finds the model in its file of further models of OpenAI's kind."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import llm
from questions import MODEL, QUESTIONS, TOO_LONG, called, error_of, report, told

ENTRY = """\
- model_id: {name}
  model_name: {name}
  api_base: {url}/v1
  supports_tools: true
  supports_schema: true
"""


def ask(text: str, *, stream: bool = False, **more: Any) -> Any:  # noqa: ANN401
    """A response, greedy."""
    return llm.get_model(MODEL).prompt(text, temperature=0, max_tokens=64, stream=stream, **more)


def seen(*, stream: bool) -> Any:  # noqa: ANN401
    """Text, in one piece or several, and what it cost."""
    response = ask(QUESTIONS["hello"], stream=stream)
    pieces = list(response)
    usage = response.usage()
    return told("".join(pieces), usage.input, usage.output, len(pieces))


def call(*, stream: bool) -> Any:  # noqa: ANN401
    """A call, which llm makes itself, and what is said of its result."""
    made = []

    def get_weather(city: str) -> str:
        """The weather of a city"""
        made.append(city)
        return str(QUESTIONS["result"])

    chain = llm.get_model(MODEL).chain(
        QUESTIONS["weather"],
        tools=[get_weather],
        stream=stream,
        options={"temperature": 0, "max_tokens": 64},
    )
    said = chain.text()
    (city,) = made
    return called("get_weather", {"city": city}, said)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLM_USER_PATH"] = folder
        entries = [ENTRY.format(name=name, url=sys.argv[1]) for name in (MODEL, "no-such-model")]
        Path(folder, "extra-openai-models.yaml").write_text("".join(entries))
        report(
            {
                "answer": lambda: seen(stream=False),
                "stream": lambda: seen(stream=True),
                "call": lambda: call(stream=False),
                "streamed_call": lambda: call(stream=True),
                "form": lambda: json.loads(ask(QUESTIONS["cow"], schema=QUESTIONS["form"]).text()),
                "too_long": lambda: error_of(lambda: ask(TOO_LONG).text()),
                "missing": lambda: error_of(
                    lambda: llm.get_model("no-such-model").prompt("Hi").text()
                ),
            }
        )
