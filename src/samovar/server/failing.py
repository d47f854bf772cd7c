"""What goes wrong outside of a dialect's own routes, said in the words of the dialect of the path.

`/v1/messages` and whatever comes with `anthropic-version`: Anthropic's. `/api`: Ollama's. All else:
OpenAI's. A message names the field that is wrong and what to do; it never holds what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from samovar.api.anthropic import failures as anthropic
from samovar.api.ollama import failures as ollama
from samovar.api.openai import failures as openai
from samovar.api.wire import Failures
from samovar.errors import SamovarError
from samovar.server.stream import failed_of, respond_failure
from samovar.types import Failed

_FAILURES: dict[str, Failures] = {"ollama": ollama.failure, "openai": openai.failure}
_CODES = {401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}
_NAME = re.compile(r"[\w.-]{1,64}")  # how fields are called; keys of other kinds may be content
_MOST_PROBLEMS = 3  # are told of one body; the others mostly follow from the first


def dialect_of(scope: Scope) -> str:
    """In whose words the client of a request wants to be told."""
    path: str = scope["path"]
    if path.startswith("/v1/messages"):
        return "anthropic"
    if path.startswith("/api/"):
        return "ollama"
    is_anthropic = any(name == b"anthropic-version" for name, _ in scope["headers"])
    return "anthropic" if is_anthropic else "openai"


def failures_of(scope: Scope) -> Failures:
    """How to say it."""
    request_id = scope.get("state", {}).get("request_id", "")
    return _FAILURES.get(dialect_of(scope)) or partial(anthropic.failure, request_id=request_id)


def response_of(scope: Scope, failed: Failed, headers: Mapping[str, str] | None = None) -> Response:
    """A failure as the response to a request."""
    response = respond_failure(failures_of(scope)(failed), failed)
    response.headers.update(headers or {})
    return response


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    failed: Failed,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Answer a request with a failure."""
    await response_of(scope, failed, headers)(scope, receive, send)


def install(app: FastAPI) -> None:
    """Have an application say what goes wrong like this."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(SamovarError, _failed)


def told(errors: Sequence[Mapping[str, Any]]) -> str:
    """What pydantic found, for whoever has to put it right."""
    problems = [_problem(one) for one in errors[:_MOST_PROBLEMS]]
    more = len(errors) - len(problems)
    return "; ".join(problems) + (f"; and {more} more" if more > 0 else "")


def _problem(error: Mapping[str, Any]) -> str:
    place = [one for one in error["loc"] if one not in ("body", "query", "path", "header")]
    field = ".".join(_shown(one) for one in place if not _is_branch(one))
    text = _ADVICE.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    return f"{field or 'the body'}: {text}"


_ADVICE = {
    "missing": "is missing; add it",
    "extra_forbidden": "is not known here; leave it out",
    "json_invalid": "is not JSON",
    "model_attributes_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
}


def _shown(part: str | int) -> str:
    text = str(part)
    return text if _NAME.fullmatch(text) else "…"


def _is_branch(part: str | int) -> bool:
    """Whether it names a branch of a union and not a field."""
    return isinstance(part, str) and ("[" in part or part in _BRANCHES)


_BRANCHES = frozenset({"str", "constrained-str", "int", "float", "bool", "bytes", "dict", "list"})


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    text = told(error.errors())
    return response_of(request.scope, Failed("", "invalid_request", text))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    scope = request.scope
    texts = {
        404: "there is no such route; /docs lists those there are",
        405: f"{scope['method']} is not a method of this route; see /docs",
    }
    code = _CODES.get(error.status_code, "invalid_request")
    text = texts.get(error.status_code, str(error.detail))
    return response_of(scope, Failed("", code, text), error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, SamovarError)
    return response_of(request.scope, failed_of(error))
