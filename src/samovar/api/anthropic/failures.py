"""Failures as Anthropic's errors: `{"type": "error", "error": {"type", "message"}}`."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from samovar.api.status import status_of
from samovar.api.wire import WireFailure
from samovar.types import Failed

OVERLOADED = 529
"""Anthropic's own status; its clients wait and try again on it, and on no other as patiently."""

_BUSY = frozenset({"overloaded", "unavailable"})

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}

_LENGTHS = re.compile(r"(\d+) tokens and a sequence has room for (\d+)")


def failure(failed: Failed, request_id: str = "") -> WireFailure:
    """The answer that a failure is, with Anthropic's status. Every code has one."""
    return WireFailure(_status(failed.code), msgspec.json.encode(error(failed, request_id)))


def error(failed: Failed, request_id: str = "") -> dict[str, Any]:
    """The object alone: an event of a stream holds the same one.

    `request_id` is that of the HTTP request, as in its headers; the event's own if there is none.
    """
    status = _status(failed.code)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": _message(failed)},
        "request_id": request_id or failed.request_id or None,
    }


def _status(code: str) -> int:
    return OVERLOADED if code in _BUSY else status_of(code)


def _message(failed: Failed) -> str:
    """Agents shorten a conversation by themselves when they read these words."""
    if failed.code != "context_length_exceeded":
        return failed.message
    lengths = _LENGTHS.search(failed.message)
    if lengths is None:
        return f"prompt is too long: {failed.message}"
    return f"prompt is too long: {lengths[1]} tokens > {lengths[2]} maximum; {failed.message}"
