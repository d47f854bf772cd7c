"""The OpenAPI document: what routes say of themselves, and the failures that all of them share.

FastAPI writes that a bad body is answered 422, in a shape of its own; here it is 400, in the shape
of the dialect.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from samovar.api.wire import NDJSON, SSE

_STATUSES = {
    "400": "Something in the request makes no sense; the message says what.",
    "401": "An API key is needed, or this one is not known.",
    "403": "The key, the name or the page of the request may not ask this.",
    "404": "There is no such model, session or thing.",
    "408": "The request came too slowly.",
    "409": "The session is busy, or holds something else.",
    "413": "The body is too large.",
    "415": "The body is compressed.",
    "422": "The request ended the model's process twice; do not send it again.",
    "429": "The key has used up what it may per minute.",
    "500": "A bug; the log says more under the request's id.",
    "501": "This model cannot do that.",
    "503": "Not now; try again later.",
    "504": "It took longer than the request allowed.",
    "529": "Not now; try again later.",
}
_STREAMS = {
    "/v1/chat/completions": SSE,
    "/v1/completions": SSE,
    "/v1/responses": SSE,
    "/v1/responses/{response_id}": SSE,
    "/v1/messages": SSE,
    "/api/chat": NDJSON,
    "/api/generate": NDJSON,
}
"""What answers in pieces where it is asked to."""

_TEXT = {"type": "string"}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "OpenAIError": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type"],
                "properties": {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
    "AnthropicError": {
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": _TEXT, "message": _TEXT},
            },
            "request_id": {"type": ["string", "null"]},
        },
    },
    "OllamaError": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": _TEXT},
    },
}
_METHODS = frozenset({"get", "post", "put", "patch", "delete", "head", "options"})
_FASTAPI = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI) -> None:
    """Have an application describe itself like this."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas: dict[str, Any] = found.setdefault("components", {}).setdefault("schemas", {})
    for name in _FASTAPI:
        schemas.pop(name, None)
    schemas.update(_SCHEMAS)
    for path, operation in _operations(found):
        _add_failures(path, operation["responses"])
        content = operation["responses"]["200"].setdefault("content", {"application/json": {}})
        if path in _STREAMS:
            content.setdefault(_STREAMS[path], {})
    keys = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    found["components"]["securitySchemes"] = keys
    found["security"] = [{}, *({name: []} for name in keys)]
    return found


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in _METHODS:
                yield path, operation


def _add_failures(path: str, responses: dict[str, Any]) -> None:
    responses.pop("422", None)
    content = {"application/json": {"schema": _shape(path)}}
    for status, meaning in _STATUSES.items():
        response = responses.setdefault(status, {"description": meaning})
        response.setdefault("content", content)


def _shape(path: str) -> dict[str, Any]:
    if path.startswith("/v1/messages"):
        return _ref("AnthropicError")
    if path.startswith("/api/"):
        return _ref("OllamaError")
    if path == "/ready":
        return {"type": "object"}
    return {"anyOf": [_ref("OpenAIError"), _ref("AnthropicError")]}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
