"""Every code has a status and a type of Anthropic's, and clients know them."""

from __future__ import annotations

import json

import pytest
from anthropic.types import ErrorResponse

from samovar.api.anthropic.failures import failure
from samovar.types import Failed
from tests.api.codes import codes


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_code_is_an_error_that_the_sdk_knows(code: str) -> None:
    made = failure(Failed("req_1", code, "what happened"))
    body = json.loads(made.body)
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == "req_1"
    assert set(body["error"]) == {"type", "message"}
    assert "what happened" in body["error"]["message"]
    assert 400 <= made.status < 600
    if body["error"]["type"] != "request_too_large":  # documented, but no type of the SDK's
        ErrorResponse.model_validate(body)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("invalid_request", 400, "invalid_request_error"),
        ("grammar_rejected", 400, "invalid_request_error"),
        ("template_error", 400, "invalid_request_error"),
        ("unauthorized", 401, "authentication_error"),
        ("forbidden", 403, "permission_error"),
        ("model_not_found", 404, "not_found_error"),
        ("not_found", 404, "not_found_error"),
        ("method_not_allowed", 405, "invalid_request_error"),
        ("session_busy", 409, "invalid_request_error"),
        ("request_too_large", 413, "request_too_large"),
        ("rate_limited", 429, "rate_limit_error"),
        ("internal_error", 500, "api_error"),
        ("native_error", 500, "api_error"),
        ("worker_lost", 503, "api_error"),
        ("deadline_exceeded", 504, "timeout_error"),
        ("overloaded", 529, "overloaded_error"),
        ("a code of another version", 500, "api_error"),
    ],
)
def test_status_and_type(code: str, status: int, kind: str) -> None:
    made = failure(Failed("", code, "x"))
    assert (made.status, json.loads(made.body)["error"]["type"]) == (status, kind)


def test_a_prompt_that_is_too_long_is_said_in_the_words_that_agents_look_for() -> None:
    told = (
        "the prompt has 5000 tokens and a sequence has room for 4096, answer included;"
        " shorten the prompt or load the model with a larger context"
    )
    message = json.loads(failure(Failed("", "context_length_exceeded", told)).body)["error"]
    assert message["message"].startswith("prompt is too long: 5000 tokens > 4096 maximum")
    other = json.loads(failure(Failed("", "context_length_exceeded", "too much")).body)["error"]
    assert other["message"] == "prompt is too long: too much"
