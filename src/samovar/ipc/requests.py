"""Requests as plain values and back: MessagePack knows no union of text and bytes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from samovar.types import (
    Chat,
    EmbedRequest,
    GenerateRequest,
    Grammar,
    RankRequest,
    SamplingParams,
    ToolChoice,
    VerifyRequest,
)

Request = GenerateRequest | VerifyRequest | EmbedRequest | RankRequest

_KINDS: dict[str, type[Request]] = {
    "generate": GenerateRequest,
    "verify": VerifyRequest,
    "embed": EmbedRequest,
    "rank": RankRequest,
}


def pack_request(request: Request) -> tuple[str, dict[str, Any]]:
    """The kind of a request, and its fields."""
    kind = next(name for name, one in _KINDS.items() if type(request) is one)
    return kind, {one.name: getattr(request, one.name) for one in fields(request)}


def unpack_request(kind: str, values: dict[str, Any]) -> Request:
    """The request of these fields. Raises InvalidRequest, and ValueError for another kind."""
    if kind not in _KINDS:
        raise ValueError(f"no request is of kind {kind}")
    plain = {name: value for name, value in values.items() if name != "chat"}
    found = {name: _as_tuple(value) for name, value in plain.items()}
    sampling, chat = values.get("sampling"), values.get("chat")
    if isinstance(sampling, dict):
        found["sampling"] = _sampling(sampling)
    if isinstance(chat, dict):
        found["chat"] = _chat(chat)
    made: Request = _KINDS[kind](**found)
    return made


def _sampling(values: dict[str, Any]) -> SamplingParams:
    found = {name: _as_tuple(value) for name, value in values.items()}
    grammar = values.get("grammar")
    if isinstance(grammar, dict):
        found["grammar"] = Grammar(**grammar)
    return SamplingParams(**found)


def _chat(values: dict[str, Any]) -> Chat:
    """Messages and tools hold lists where they held lists: templates and schemas know no tuples."""
    found = dict(values)
    for name in ("messages", "tools"):
        found[name] = tuple(values.get(name, ()))
    if values.get("volatile") is not None:
        found["volatile"] = tuple(values["volatile"])
    choice = values.get("tool_choice")
    if isinstance(choice, dict):
        found["tool_choice"] = ToolChoice(**choice)
    return Chat(**found)


def _as_tuple(value: Any) -> Any:  # noqa: ANN401 - whatever a message holds
    """Lists come back where tuples went."""
    if isinstance(value, list):
        return tuple(map(_as_tuple, value))
    return value
