"""Failures in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

Its clients choose the class of their exception by the status, and look at the code.
"""

from __future__ import annotations

import re

import msgspec

from samovar.api.status import status_of
from samovar.api.wire import WireFailure
from samovar.types import Failed

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
    499: "cancelled",
    503: "overloaded_error",
    504: "timeout_error",
}
_CODES = {"unauthorized": "invalid_api_key", "rate_limited": "rate_limit_exceeded"}
"""Where OpenAI has a word of its own for what we say."""

_ROOM = re.compile(r"room for (\d+)")

_EXCEEDED = "Input tokens exceed the configured limit"

_CALLERS_FAULT = range(400, 500)


class Error(msgspec.Struct, frozen=True):
    """What went wrong, as every body and stream of this dialect says it."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(msgspec.Struct, frozen=True):
    """The whole body."""

    error: Error


def type_of(status: int) -> str:
    """The type of an error with this status."""
    usual = "invalid_request_error" if status in _CALLERS_FAULT else "server_error"
    return _TYPES.get(status, usual)


def error_body(failed: Failed, param: str | None = None) -> ErrorBody:
    """The failure as a body; `param` names the field of the request that is wrong."""
    code = _CODES.get(failed.code, failed.code)
    kind = type_of(status_of(failed.code))
    return ErrorBody(Error(_message(failed), kind, param, code))


def _message(failed: Failed) -> str:
    """What happened, with the words of OpenAI by which clients know that a prompt is too long.

    It has used two sentences: LiteLLM and agents look for the first, LangChain for the second.
    """
    if failed.code != "context_length_exceeded":
        return failed.message
    room = _ROOM.search(failed.message)
    most = f"is {room[1]} tokens" if room else "is exceeded"
    return f"This model's maximum context length {most}. {_EXCEEDED}: {failed.message}"


def failure(failed: Failed, param: str | None = None) -> WireFailure:
    """The failure as a response."""
    return WireFailure(status_of(failed.code), msgspec.json.encode(error_body(failed, param)))
