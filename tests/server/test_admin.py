"""The cache and the sessions, asked over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.server.serving import PATIENCE

PROMPT = "The quick brown fox jumps over the lazy dog, and then it does so once more. " * 4


def _ask(url: str, path: str, **body: Any) -> dict[str, Any]:  # noqa: ANN401
    response = httpx.post(url + path, json=body, timeout=PATIENCE)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_a_prompt_is_warmed_and_explained(server: str) -> None:
    before = _ask(server, "/cache/explain", prompt=PROMPT)
    assert before["computed_tokens"] == before["prompt_tokens"]
    assert _ask(server, "/cache/warm", prompt=PROMPT)["prompt_tokens"] == before["prompt_tokens"]
    after = _ask(server, "/cache/explain", prompt=PROMPT)
    assert after["computed_tokens"] < 16
    other = _ask(server, "/cache/explain", prompt=PROMPT, salt="somebody else's")
    assert other["computed_tokens"] == before["prompt_tokens"]
    pinned = _ask(server, "/cache/pin", prompt=PROMPT)["pinned_tokens"]
    assert pinned > 16
    assert _ask(server, "/cache/unpin", prompt=PROMPT) == {"unpinned_tokens": pinned}
    assert _ask(server, "/cache/flush") == {"is_durable": True}
    info = httpx.get(f"{server}/cache/info", timeout=PATIENCE).json()
    assert info["model"] == "samovar-mini"
    assert info["tiers"]["memory"]["bytes"] > 0


def test_what_a_request_computes_is_what_is_explained(server: str) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    asked = {"model": "samovar-mini", "messages": messages, "max_tokens": 1}
    _ask(server, "/v1/chat/completions", **asked)
    found = _ask(server, "/cache/explain", messages=messages)
    assert found["computed_tokens"] < found["prompt_tokens"] / 2
    again = _ask(server, "/v1/chat/completions", **asked)["usage"]
    assert again["prompt_tokens"] == found["prompt_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/cache/explain", {}, 400),
        ("/cache/explain", {"prompt": "a", "messages": []}, 400),
        ("/cache/explain", {"prompt": [1, -7]}, 400),
        ("/cache/explain", {"prompt": [2**40]}, 400),
        ("/cache/pin", {"promt": "a"}, 400),
        ("/cache/warm", {"prompt": ""}, 400),
        ("/cache/warm", {"prompt": "a", "model": "no"}, 404),
        ("/sessions/end", {"name": "no"}, 404),
        ("/sessions/fork", {"source": "no", "target": "other"}, 404),
        ("/sessions/end", {"name": ""}, 400),
        ("/sessions/end", {}, 400),
    ],
)
def test_what_makes_no_sense(server: str, path: str, body: dict[str, Any], status: int) -> None:
    response = httpx.post(server + path, json=body, timeout=PATIENCE)
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]


def test_sessions(server: str) -> None:
    asked = {"model": "samovar-mini", "prompt": "a b c", "max_tokens": 2, "session_id": "first"}
    _ask(server, "/v1/completions", **asked)
    (first,) = httpx.get(f"{server}/sessions", timeout=PATIENCE).json()["sessions"]
    assert first["name"].endswith("first")
    assert first["tokens"] >= 4
    name = first["name"]
    _ask(server, "/sessions/fork", source=name, target="second")
    held = {
        one["name"]: one["tokens"]
        for one in httpx.get(f"{server}/sessions", timeout=PATIENCE).json()["sessions"]
    }
    assert held == {name: first["tokens"], "second": first["tokens"]}
    assert _ask(server, "/sessions/end", name="second") == {"is_gone": True}
    assert _ask(server, "/sessions/reset", name=name) == {"is_gone": True}
    assert httpx.get(f"{server}/sessions", timeout=PATIENCE).json()["sessions"] == []
