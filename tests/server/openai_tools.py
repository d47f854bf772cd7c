"""Asks a server of samovar-mini through tools that people use, in an environment of their own.

    python3 -m venv tools && tools/bin/pip install litellm langchain-openai llm
    samovar serve samovar-mini --ctx-size 2048 &
    tools/bin/python tests/server/openai_tools.py http://127.0.0.1:8080/v1

They bring some hundred packages, each of which wants to be another version next week: so this is
run by hand, and not with the tests.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import litellm
import llm
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

MODEL = "samovar-mini"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather of a city", "parameters": WEATHER},
}
HELLO: Any = [{"role": "user", "content": "Hello! Who are you?"}]
ASKED: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


def ask_litellm(url: str) -> None:
    """Text, streamed text, a call, vectors, what is wrong."""
    given: dict[str, Any] = {"model": f"openai/{MODEL}", "api_base": url, "api_key": "none"}
    whole = litellm.completion(messages=HELLO, temperature=0, **given)
    text = whole.choices[0].message.content
    assert "Samovar" in text
    chunks = litellm.completion(messages=HELLO, temperature=0, stream=True, **given)
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == text
    called = litellm.completion(messages=ASKED, tools=[TOOL], tool_choice="required", **given)
    (call,) = called.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["city"] == "Paris"
    vectors = litellm.embedding(input=["a", "b"], encoding_format="float", **given)
    assert len(vectors.data) == 2
    try:
        litellm.completion(messages=[{"role": "user", "content": "long " * 4000}], **given)
    except litellm.ContextWindowExceededError:
        return
    raise AssertionError("a prompt that is too long was not known as such")


def ask_langchain(url: str) -> None:
    """Text, streamed text, a call that is answered, an answer of a form, vectors."""
    chat = ChatOpenAI(base_url=url, api_key="none", model=MODEL, temperature=0)
    text = chat.invoke("Hello! Who are you?").content
    assert "Samovar" in text
    assert "".join(one.content for one in chat.stream("Hello! Who are you?")) == text
    bound = chat.bind_tools([TOOL], tool_choice="required")
    question = HumanMessage(ASKED[0]["content"])
    called = bound.invoke([question])
    (call,) = called.tool_calls
    assert call["args"]["city"] == "Paris"
    answer = ToolMessage("sunny", tool_call_id=call["id"])
    assert chat.bind_tools([TOOL]).invoke([question, called, answer]).content
    schema = {
        "title": "Answer",
        "type": "object",
        "properties": {"says": {"enum": ["moo", "meow"]}},
        "required": ["says"],
        "additionalProperties": False,
    }
    formed = chat.with_structured_output(schema, method="json_schema")
    assert formed.invoke("What does a cow say?") in ({"says": "moo"}, {"says": "meow"})
    vectors = OpenAIEmbeddings(
        base_url=url, api_key="none", model=MODEL, check_embedding_ctx_length=False
    )
    assert len(vectors.embed_documents(["a", "b"])) == 2


def ask_llm(url: str) -> None:
    """Text of a model that its file of further models names."""
    entry = f"- model_id: tea\n  model_name: {MODEL}\n  api_base: {url}\n"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLM_USER_PATH"] = folder
        Path(folder, "extra-openai-models.yaml").write_text(entry)
        model = llm.get_model("tea")
    model.key = "none"
    assert "Samovar" in model.prompt("Hello! Who are you?", temperature=0, stream=False).text()
    assert "Samovar" in "".join(model.prompt("Hello! Who are you?", temperature=0))


if __name__ == "__main__":
    for ask in (ask_litellm, ask_langchain, ask_llm):
        ask(sys.argv[1])
