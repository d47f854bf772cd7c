"""Every code has a status and a type, and the SDK makes an exception of its own of each."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from samovar.api.openai.failures import failure
from samovar.types import Failed
from tests.api.codes import codes


def raised(code: str) -> openai.APIStatusError:
    """What the SDK raises for a failure."""
    made = failure(Failed("req_1", code, "what happened"), "messages")
    with (
        openai.OpenAI(
            api_key="x",
            max_retries=0,
            base_url="http://test",
            http_client=httpx.Client(
                transport=httpx.MockTransport(
                    lambda _: httpx.Response(
                        made.status, content=made.body, headers={"content-type": made.media_type}
                    )
                )
            ),
        ) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.models.list()
    return caught.value


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_code_is_an_error_that_the_sdk_understands(code: str) -> None:
    body = json.loads(failure(Failed("", code, "what happened")).body)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error = raised(code)
    assert 400 <= error.status_code < 600
    assert "what happened" in error.message
    assert error.param == "messages"
    assert error.code
    assert error.type
    assert (error.status_code >= 500) == isinstance(error, openai.InternalServerError)


@pytest.mark.parametrize(
    ("code", "status", "kind", "told"),
    [
        ("invalid_request", 400, "invalid_request_error", "invalid_request"),
        ("grammar_rejected", 400, "invalid_request_error", "grammar_rejected"),
        ("context_length_exceeded", 400, "invalid_request_error", "context_length_exceeded"),
        ("unauthorized", 401, "authentication_error", "invalid_api_key"),
        ("forbidden", 403, "permission_error", "forbidden"),
        ("model_not_found", 404, "invalid_request_error", "model_not_found"),
        ("session_busy", 409, "conflict_error", "session_busy"),
        ("request_too_large", 413, "invalid_request_error", "request_too_large"),
        ("rate_limited", 429, "rate_limit_error", "rate_limit_exceeded"),
        ("native_error", 500, "server_error", "native_error"),
        ("overloaded", 503, "overloaded_error", "overloaded"),
        ("deadline_exceeded", 504, "timeout_error", "deadline_exceeded"),
        ("a code of another version", 500, "server_error", "a code of another version"),
    ],
)
def test_status_type_and_code(code: str, status: int, kind: str, told: str) -> None:
    made = failure(Failed("", code, "x"))
    error = json.loads(made.body)["error"]
    assert (made.status, error["type"], error["code"]) == (status, kind, told)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_request", openai.BadRequestError),
        ("unauthorized", openai.AuthenticationError),
        ("forbidden", openai.PermissionDeniedError),
        ("model_not_found", openai.NotFoundError),
        ("session_busy", openai.ConflictError),
        ("rate_limited", openai.RateLimitError),
        ("overloaded", openai.InternalServerError),
    ],
)
def test_kinds_of_failures_are_kinds_of_exceptions(code: str, kind: type[Exception]) -> None:
    assert type(raised(code)) is kind


def test_a_prompt_that_is_too_long_is_said_in_the_words_that_agents_look_for() -> None:
    told = "the prompt has 5000 tokens and a sequence has room for 4096, answer included"
    body = json.loads(failure(Failed("", "context_length_exceeded", told)).body)
    assert body["error"]["message"] == (
        "This model's maximum context length is 4096 tokens. "
        f"Input tokens exceed the configured limit: {told}"
    )
    other = json.loads(failure(Failed("", "context_length_exceeded", "too much")).body)
    assert "maximum context length is exceeded. Input tokens exceed" in other["error"]["message"]
    assert other["error"]["message"].endswith(": too much")
