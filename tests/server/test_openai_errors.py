"""What goes wrong is an exception of its own in OpenAI's client, and says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from samovar.config import ServerConfig
from tests.server.conftest import mini
from tests.server.openai_clients import MODEL, QUESTION, client_of
from tests.server.serving import PATIENCE, serving

KEY = "sk-of-a-test-0123456789"


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with client_of(server) as made:
        yield made


def test_an_unknown_model_is_not_found_and_those_that_are_there_are_named(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=QUESTION)
    assert caught.value.code == "model_not_found"
    assert MODEL in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "samovar"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None),
        ({"n": 0}, "n"),
        ({"stop": [""]}, None),
        ({"tool_choice": "sometimes"}, None),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"logit_bias": {"word": 1}}, None),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"grammar": "no grammar"}, None),
        ({"json_schema": {"type": "nothing"}}, None),
        ({"messages": [{"role": "user", "content": "long " * 4000}]}, None),
        ({"session_id": "s", "n": 2}, None),
    ],
)
def test_bad_requests(client: openai.OpenAI, fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=QUESTION, extra_body=fields)
    error = caught.value
    assert error.type == "invalid_request_error"
    assert error.message
    if param is not None:
        assert error.param == param
    with pytest.raises(openai.APIError) as streamed:  # a status, unless it took long to find out
        list(
            client.chat.completions.create(
                model=MODEL, messages=QUESTION, stream=True, extra_body=fields
            )
        )
    assert streamed.value.code == error.code


@pytest.mark.parametrize("given", [[], [[]], ["a", [1]], [True], {"a": "b"}, 5, None, ["x"] * 129])
def test_prompts_of_no_kind_are_refused_in_one_sentence(server: str, given: object) -> None:
    told = httpx.post(f"{server}/v1/completions", json={"prompt": given}, timeout=PATIENCE)
    error = told.json()["error"]
    assert (told.status_code, error["param"]) == (400, "prompt")
    assert len(error["message"]) < 100


def test_what_was_sent_is_never_said_back(server: str) -> None:
    secret = "4111-1111"
    for body in (
        {"messages": [{"role": "user", "content": {"card": secret}}]},
        {"messages": [{"role": "user", "content": [{"type": secret}]}]},
        {"messages": [{"role": secret * 20, "content": "x"}]},
        {"messages": [{"role": "user", "content": secret}], "temperature": secret},
    ):
        told = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=PATIENCE)
        assert told.status_code == 400
        assert secret not in told.text


def test_a_prompt_that_is_too_long_is_said_with_its_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="long " * 4000)
    assert caught.value.code == "context_length_exceeded"
    assert "maximum context length is 2048 tokens" in caught.value.message


@pytest.mark.parametrize("path", ["/moderations", "/images/generations", "/nowhere"])
def test_what_is_not_served_is_not_found(client: openai.OpenAI, path: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.post(path, body={"input": "x"}, cast_to=object)


def test_keys_are_asked_for_and_counted(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[keys]]\nname = "ann"\nkey = "{KEY}"\nrequests_per_minute = 2\n')
    keys.chmod(0o600)
    config = ServerConfig(keys_file=keys)
    with serving([mini(tmp_path / "kv")], config=config) as url:
        with client_of(url) as client, pytest.raises(openai.AuthenticationError) as unknown:
            client.completions.create(model=MODEL, prompt="x")
        assert unknown.value.code == "invalid_api_key"
        with client_of(url, api_key=KEY) as client:
            for _ in range(2):
                client.completions.create(model=MODEL, prompt="x", max_tokens=1)
            with pytest.raises(openai.RateLimitError) as limited:
                client.completions.create(model=MODEL, prompt="x", max_tokens=1)
        assert limited.value.code == "rate_limit_exceeded"
        assert int(limited.value.response.headers["retry-after"]) > 0
