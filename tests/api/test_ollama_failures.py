"""Every code is an error with a status that Ollama's clients read."""

from __future__ import annotations

import json

import pytest

from samovar.api.ollama.failures import failure
from samovar.types import Failed
from tests.api.codes import codes


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_code(code: str) -> None:
    made = failure(Failed("r1", code, "what happened; what to do"))
    assert json.loads(made.body) == {"error": "what happened; what to do"}
    assert made.media_type == "application/json"
    assert 400 <= made.status < 600


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid_request", 400),
        ("grammar_rejected", 400),
        ("context_length_exceeded", 400),
        ("unauthorized", 401),
        ("model_not_found", 404),
        ("rate_limited", 429),
        ("internal_error", 500),
        ("load_failed", 500),
        ("unsupported_model", 501),
        ("overloaded", 503),
        ("deadline_exceeded", 504),
        ("a code of another version", 500),
    ],
)
def test_statuses(code: str, status: int) -> None:
    assert failure(Failed("", code, "x")).status == status
