"""Bodies that nobody means well with: none is a bug, none takes the server down.

What is allowed to come back is an answer or a failure with a reason; never a 500, never silence.
"""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import scaled
from tests.server.serving import PATIENCE

MODEL = "samovar-mini"
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}},
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        ],
        "tools": [TOOL],
        "tool_choice": "auto",
        "max_tokens": 4,
        "temperature": 0.5,
        "stop": ["x"],
        "seed": 1,
        "response_format": {"type": "text"},
        "stream_options": {"include_usage": True},
        "stream": True,
        "logit_bias": {"5": 1},
    },
    "/v1/completions": {
        "model": MODEL,
        "prompt": ["Hello", "there"],
        "max_tokens": 4,
        "n": 1,
        "logprobs": 2,
        "echo": True,
        "suffix": None,
    },
    "/v1/responses": {
        "model": MODEL,
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
        "max_output_tokens": 4,
        "stream": True,
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
        "text": {"format": {"type": "text"}},
    },
    "/v1/messages": {
        "model": MODEL,
        "max_tokens": 4,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "stream": True,
    },
    "/api/chat": {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "tools": [TOOL],
        "options": {"num_predict": 4, "temperature": 0.5, "stop": ["x"]},
        "keep_alive": "5m",
        "format": "json",
    },
    "/api/generate": {
        "model": MODEL,
        "prompt": "Hello",
        "options": {"num_predict": 4},
        "stream": False,
    },
    "/v1/embeddings": {"model": MODEL, "input": ["Hello"], "encoding_format": "float"},
    "/cache/explain": {"model": MODEL, "prompt": "Hello"},
    "/sessions/end": {"model": MODEL, "name": "none"},
}

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    1e308,
    "",
    "\x00",
    "\U0010ffff" * 50,
    "a" * 5000,
    "{{ messages }}",
    [],
    {},
    [[]],
    [None],
    {"": {}},
    {"type": "text"},
    {"$ref": "#"},
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401
    found = [path] if path else []
    items: Any = ()
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in items:
        found += _places(each, (*path, key))
    return found


def _mutated(body: dict[str, Any], draw: random.Random) -> Any:  # noqa: ANN401
    """A body in which one to three things are something else, or gone, or twice."""
    found = deepcopy(body)
    for _ in range(draw.randint(1, 3)):
        places = _places(found)
        if not places:
            return deepcopy(draw.choice(ODD))
        *path, last = draw.choice(places)
        inner = found
        for key in path:
            inner = inner[key]
        kind = draw.randrange(4)
        if kind == 0:
            del inner[last]
        elif kind == 1 and isinstance(inner, list):
            inner.append(deepcopy(inner[last]))
        elif kind == 2 and isinstance(inner, dict):
            inner[draw.choice(("x", "", "type", "stream", "n"))] = deepcopy(draw.choice(ODD))
        else:
            inner[last] = deepcopy(draw.choice(ODD))
    return found


def _check(response: httpx.Response) -> None:
    assert response.status_code < 500 or response.status_code in (501, 503), response.text
    assert "internal_error" not in response.text, response.text
    assert "Traceback" not in response.text
    if response.status_code >= 400:
        assert response.json()["error"]


@pytest.mark.parametrize("path", sorted(BODIES))
def test_bodies_that_are_a_little_wrong(server: str, path: str) -> None:
    draw = random.Random(path)
    with httpx.Client(timeout=PATIENCE) as client:
        for _ in range(scaled(20, 1000)):
            body = _mutated(BODIES[path], draw)
            if isinstance(body, dict):
                _bound(body, path)
            response = client.post(server + path, json=body)
            assert response.request.content
            try:
                _check(response)
            except AssertionError as error:
                raise AssertionError(f"{path} {json.dumps(body)[:2000]}") from error
        _still_answers(client, server)


_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def _bound(body: dict[str, Any], path: str) -> None:
    """What would only take long is no test of anything."""
    if path.startswith("/api/"):
        options = body.setdefault("options", {})
        if isinstance(options, dict) and _is_large(options.get("num_predict")):
            options["num_predict"] = 4
    elif path.startswith("/v1/") and path != "/v1/embeddings":
        body |= {name: 4 for name in _LIMITS if _is_large(body.get(name))}


def _is_large(value: Any) -> bool:  # noqa: ANN401
    return value is None or (isinstance(value, (int, float)) and value > 4)


def _still_answers(client: httpx.Client, server: str) -> None:
    body = {"model": MODEL, "prompt": "Hello", "max_tokens": 2, "temperature": 0}
    assert client.post(f"{server}/v1/completions", json=body).status_code == 200


def test_numbers_that_no_message_between_processes_holds(server: str) -> None:
    body = BODIES["/v1/chat/completions"] | {"chat_template_kwargs": {"a": 2**70}, "stream": False}
    response = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=PATIENCE)
    assert response.status_code == 400
    assert "64 bits" in response.text


@pytest.mark.parametrize("path", sorted(BODIES))
def test_bytes_that_are_a_little_wrong(server: str, path: str) -> None:
    whole = json.dumps(BODIES[path]).encode()

    @settings(max_examples=scaled(6, 300), deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(whole) - 1))
        noise = data.draw(st.binary(max_size=8))
        body = whole[:at] + noise + whole[at + len(noise) :]
        _check(httpx.post(server + path, content=body, timeout=PATIENCE))

    check()
    with httpx.Client(timeout=PATIENCE) as client:
        _still_answers(client, server)


def test_everything_that_the_openapi_document_says_can_be_asked(server: str) -> None:
    document = httpx.get(f"{server}/openapi.json", timeout=PATIENCE).json()
    assert len(document["paths"]) > 20
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = server
    for result in schema.get_all_operations():
        _probe(result.ok(), server)
    with httpx.Client(timeout=PATIENCE) as client:
        _still_answers(client, server)


def _probe(operation: Any, server: str) -> None:  # noqa: ANN401
    """Ask one operation what its part of the document allows, and what it does not."""

    documented = operation.definition.raw["responses"]

    @settings(
        max_examples=scaled(3, 40),
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:  # noqa: ANN401
        if isinstance(case.body, dict):
            case.body["model"] = MODEL
            _bound(case.body, operation.path)
        response = case.call(base_url=server, timeout=PATIENCE)
        text = f"{operation.label}: {response.status_code} {response.text[:500]}"
        assert response.status_code < 500 or response.status_code in (501, 503), text
        said = documented.get(str(response.status_code))
        assert said is not None, text
        (kind,) = response.headers.get("content-type", [""])
        kind = kind.partition(";")[0]
        assert not response.content or kind in said["content"], text

    check()
