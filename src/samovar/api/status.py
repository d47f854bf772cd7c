"""The HTTP status of every error code; a test walks the error tree against it."""

from __future__ import annotations

STATUS: dict[str, int] = {
    "invalid_request": 400,
    "invalid_token": 400,
    "grammar_rejected": 400,
    "context_length_exceeded": 400,
    "model_not_found": 404,
    "session_not_found": 404,
    "previous_response_not_found": 400,
    "transcript_mismatch": 409,
    "session_busy": 409,
    "session_reset": 409,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "request_too_large": 413,
    "unsupported_media_type": 415,
    "poisonous_request": 422,  # it ended its process twice: clients send a 500 again by themselves
    "rate_limited": 429,
    "overloaded": 503,
    "unavailable": 503,
    "decode_timeout": 503,
    "worker_lost": 503,
    "deadline_exceeded": 504,
    "load_failed": 500,
    "malformed_gguf": 500,
    "unsupported_model": 501,
    "out_of_memory": 503,
    "model_error": 500,
    "adapter_rejected": 400,
    "operation_unsupported": 400,
    "template_error": 400,
    "template_missing": 400,
    "cancelled": 499,
}
"""By the code of samovar.errors, and those that only a server has."""

INTERNAL = 500


def status_of(code: str) -> int:
    """The status of a code; 500 for the codes of bugs."""
    return STATUS.get(code, INTERNAL)
