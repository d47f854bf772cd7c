"""Other people's clients at `samovar serve`: each asks the same, in its own words and environment.

A client is a script here, which runs among the tools (`make tools-setup`) and prints what came of
its questions as JSON. What must come of them is the same for all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.processes import PATIENCE, running

HERE = Path(__file__).parent
TOOLS = Path(sys.prefix) / "tools"
QUESTIONS = json.loads((HERE / "questions.json").read_text())


@dataclass(frozen=True)
class Client:
    """A script, what it is to speak, and the errors that its users know."""

    script: str
    dialect: str
    too_long: str
    missing: str

    def __str__(self) -> str:
        return f"{self.script.removeprefix('ask_').replace('.', '-')}-{self.dialect}"


CLIENTS = [
    Client("ask_litellm.py", "openai", "ContextWindowExceededError", "NotFoundError"),
    Client("ask_litellm.py", "anthropic", "ContextWindowExceededError", "NotFoundError"),
    Client("ask_litellm.py", "ollama_chat", "BadRequestError", "NotFoundError"),
    Client("ask_langchain.py", "openai", "OpenAIContextOverflowError", "OpenAIModelNotFoundError"),
    Client(
        "ask_langchain.py", "responses", "OpenAIContextOverflowError", "OpenAIModelNotFoundError"
    ),
    Client(
        "ask_langchain.py",
        "anthropic",
        "AnthropicContextOverflowError",
        "AnthropicModelNotFoundError",
    ),
    Client("ask_langchain.py", "ollama", "ResponseError", "ResponseError"),
    Client("ask_llm.py", "openai", "BadRequestError", "NotFoundError"),
    Client("ask_openai.mjs", "openai", "BadRequestError", "NotFoundError"),
    Client("ask_openai.mjs", "responses", "BadRequestError", "NotFoundError"),
    Client("ask_anthropic.mjs", "anthropic", "BadRequestError", "NotFoundError"),
    Client("ask_ollama.mjs", "ollama", "ResponseError", "ResponseError"),
    Client("ask_ai.mjs", "openai-compatible", "APICallError 400", "APICallError 404"),
    Client("ask_ai.mjs", "openai-chat", "APICallError 400", "APICallError 404"),
    Client("ask_ai.mjs", "openai", "APICallError 400", "APICallError 404"),
    Client("ask_ai.mjs", "anthropic", "APICallError 400", "APICallError 404"),
]


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    with running(QUESTIONS["model"]) as server:
        yield server.url


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts beside the packages: those of JavaScript look for them in their own folder."""
    stamp = Path(sys.prefix) / "stamps" / "tools-js"
    assert stamp.exists(), "the clients are not there: run `make tools-setup`"
    folder = tmp_path_factory.mktemp("clients")
    for path in HERE.glob("*s*.*"):
        if path.suffix in (".py", ".mjs", ".json"):
            shutil.copy(path, folder)
    (folder / "node_modules").symlink_to(TOOLS / "node_modules")
    return folder


@pytest.fixture(scope="module", params=CLIENTS, ids=str)
def client(request: pytest.FixtureRequest) -> Client:
    return request.param


@pytest.fixture(scope="module")
def said(client: Client, url: str, scripts: Path) -> dict[str, Any]:
    """What came of the questions of one client."""
    program = TOOLS / "bin" / ("python" if client.script.endswith(".py") else "node")
    done = subprocess.run(
        [program, scripts / client.script, url, client.dialect],
        env={
            "HOME": str(scripts),
            "PATH": f"{TOOLS / 'bin'}:{os.environ['PATH']}",
            # Else it fetches a list of prices when it is imported.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def of(said: dict[str, Any], name: str) -> Any:  # noqa: ANN401
    """What came of one question, unless it failed in the client."""
    found = said[name]
    assert "failed" not in found, found["failed"]
    return found


def test_an_answer_and_what_it_cost(said: dict[str, Any], url: str) -> None:
    found = of(said, "answer")
    assert "Samovar" in found["text"]
    asked = {"messages": [{"role": "user", "content": QUESTIONS["hello"]}]}
    tokens = httpx.post(f"{url}/v1/tokenize", json=asked).json()["tokens"]
    assert found["asked"] == len(tokens)
    assert 0 < found["answered"] < 64


def test_a_stream_is_the_answer_in_pieces(said: dict[str, Any]) -> None:
    whole, found = of(said, "answer"), of(said, "stream")
    assert found["pieces"] > 1
    assert found | {"pieces": 1} == whole


def test_a_call_and_what_is_said_of_its_result(said: dict[str, Any]) -> None:
    found = of(said, "call")
    assert found["name"] == QUESTIONS["tool"]["name"]
    assert found["arguments"] == {"city": "Paris"}
    assert "sunny" in found["said"]


def test_a_call_in_pieces_is_the_same_call(said: dict[str, Any]) -> None:
    found = of(said, "streamed_call")
    assert found | {"said": ""} == of(said, "call") | {"said": ""}


def test_an_answer_that_keeps_to_a_schema(said: dict[str, Any]) -> None:
    assert of(said, "form") in ({"says": "moo"}, {"says": "meow"})


def test_errors_are_those_that_users_of_the_client_know(
    client: Client, said: dict[str, Any]
) -> None:
    assert of(said, "too_long") == client.too_long
    assert of(said, "missing") == client.missing


def test_vectors(said: dict[str, Any]) -> None:
    if "vectors" in said:
        first, second = of(said, "vectors")
        assert first == second > 0
