"""Bodies that no route has to see, and failures in the shape of whoever asked."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.server.serving import PATIENCE

PATHS = ["/v1/chat/completions", "/v1/messages", "/api/chat"]


def _post(url: str, body: bytes, **headers: str) -> httpx.Response:
    return httpx.post(
        url, content=body, headers={"content-type": "application/json"} | headers, timeout=PATIENCE
    )


def _message(response: httpx.Response) -> str:
    """What went wrong, from whichever shape."""
    error = response.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


def test_each_dialect_is_told_in_its_own_shape(server: str) -> None:
    openai, anthropic, ollama = (_post(server + path, b"{").json() for path in PATHS)
    assert set(openai["error"]) == {"message", "type", "param", "code"}
    assert anthropic["type"] == "error"
    assert anthropic["error"]["type"] == "invalid_request_error"
    assert isinstance(ollama["error"], str)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"model": ', "not JSON"),
        (b'{"model": NaN}', "not JSON"),
        (b'{"model": "\xff"}', "not UTF-8"),
        (b'{"model": "\\ud800"}', "not JSON"),
        (b"[" * 100_000, "nests deeper"),
        (b'{"model":' + b"[" * 200 + b"]" * 200 + b"}", "nests deeper"),
        (b"\x00" * 10, "not JSON"),
        (b"[]", "object"),
        (b'"text"', "object"),
        (b"", ""),
    ],
)
def test_what_is_no_request_is_refused(server: str, path: str, body: bytes, text: str) -> None:
    response = _post(server + path, body)
    assert response.status_code == 400
    assert text in _message(response)


def test_depth_is_counted_and_not_brackets(server: str) -> None:
    flat = {"model": "no", "messages": [{"role": "user", "content": [[]] * 500}]}
    response = httpx.post(f"{server}/v1/chat/completions", json=flat, timeout=PATIENCE)
    assert "nests" not in response.text
    text = {"model": "samovar-mini", "prompt": "[{" * 500, "max_tokens": 1}
    assert httpx.post(f"{server}/v1/completions", json=text, timeout=60).status_code == 200


@pytest.mark.parametrize("part", [b"[],", b'"",', b"1,"])
def test_more_parts_than_can_be_read_are_refused_before_they_are(server: str, part: bytes) -> None:
    body = b'{"model": "samovar-mini", "prompt": [' + part * (2**23 // len(part)) + b"1]}"
    response = _post(f"{server}/v1/completions", body)
    assert response.status_code == 400
    assert "send fewer at once" in _message(response)


def test_parts_are_not_what_text_holds(server: str) -> None:
    text = '[{,"\\' * 2**19  # a list of code that somebody wrote, and not one of ours
    body = {"model": "samovar-mini", "prompt": text, "max_tokens": 1}
    response = httpx.post(f"{server}/v1/completions", json=body, timeout=60)
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_compressed_bodies_are_refused(server: str) -> None:
    response = _post(f"{server}/v1/completions", b"{}", **{"content-encoding": "gzip"})
    assert response.status_code == 415
    plain = _post(f"{server}/v1/completions", b"{}", **{"content-encoding": "Identity"})
    assert plain.status_code == 400


def test_json_is_read_whatever_it_is_called(server: str) -> None:
    body = json.dumps({"model": "samovar-mini", "prompt": "a", "max_tokens": 1}).encode()
    for kind in ("application/x-www-form-urlencoded", "text/plain", ""):
        said = httpx.post(
            f"{server}/v1/completions", content=body, headers={"content-type": kind}, timeout=60
        )
        assert said.status_code == 200, kind


def test_a_field_that_is_wrong_is_named_and_not_quoted(server: str) -> None:
    secret = "the-secret-of-the-caller"
    body = {
        "model": "samovar-mini",
        "messages": [{"role": secret, "content": secret}],
        "temperature": secret,
        "options": {"temperature": secret},
    }
    for path in PATHS:
        response = httpx.post(server + path, json=body | {"max_tokens": 1}, timeout=PATIENCE)
        assert response.status_code == 400, path
        assert secret not in response.text, path
    assert "temperature" in httpx.post(server + PATHS[0], json=body, timeout=PATIENCE).text
    empty = httpx.post(server + PATHS[0], json={"messages": [], "stop": ""}, timeout=PATIENCE)
    assert "stop: String should have at least 1 character" in _message(empty)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/messages/nothing", 404),
        ("GET", "/api/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/v1/messages", 405),
        ("PUT", "/api/chat", 405),
        ("DELETE", "/metrics", 405),
        ("PATCH", "/health", 405),
    ],
)
def test_what_is_not_there(server: str, method: str, path: str, status: int) -> None:
    response = httpx.request(method, server + path, timeout=PATIENCE)
    assert response.status_code == status
    assert _message(response)
    assert "allow" in response.headers or status == 404


def test_an_anthropic_client_is_told_so_everywhere(server: str) -> None:
    response = httpx.get(
        f"{server}/v1/models/no", headers={"anthropic-version": "2023-06-01"}, timeout=PATIENCE
    )
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "not_found_error"
    assert response.headers["request-id"] == response.headers["x-request-id"]


def test_ids_of_requests(server: str) -> None:
    ours = httpx.get(f"{server}/health", timeout=PATIENCE).headers["x-request-id"]
    assert ours.startswith("req_")
    for given, is_kept in (("mine-1", True), ("a b", False), ("x" * 200, False), ("é", False)):
        headers = {"x-request-id": given.encode()}
        found = httpx.get(f"{server}/health", headers=headers, timeout=PATIENCE).headers[
            "x-request-id"
        ]  # type: ignore[arg-type]
        assert (found == given) == is_kept
