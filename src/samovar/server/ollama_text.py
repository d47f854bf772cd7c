"""Ollama's routes for text: /api/chat and /api/generate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from samovar.api.ollama.answers import (
    ChatShape,
    GenerateShape,
    Head,
    RecordCollector,
    RecordEncoder,
    Shape,
    loaded_body,
)
from samovar.api.ollama.failures import failure
from samovar.api.ollama.options import Options, option_warnings
from samovar.api.ollama.requests import (
    ChatBody,
    GenerateBody,
    TextBody,
    chat_request,
    check_generate,
    generate_chat,
    is_only_loading,
    text_request,
)
from samovar.ipc.messages import Ready
from samovar.server.asking import caller_of, served_of
from samovar.server.infilling import infilled
from samovar.server.ollama_running import Running, resolved
from samovar.server.pieces import KnownPieces, PiecesOf, known_pieces
from samovar.server.stream import collected, streamed, while_connected
from samovar.types import Burst, Chat, GenerateRequest

router = APIRouter()


@router.post("/api/chat")
async def chat(body: ChatBody, request: Request) -> Response:
    """Answer a conversation; without messages load the model, or unload it (`keep_alive` 0)."""
    models, asker = served_of(request), caller_of(request)
    name = resolved(models, body.model)
    head = Head(body.model)
    running = Running(models, name, body.keep, head.watch)
    if not body.messages:
        return await _loaded(request, running, head, ChatShape())
    asked = chat_request(body, models.new_id("chat-"), asker.tenant)

    async def make(ready: Ready) -> GenerateRequest:
        _warn(head, body, ready)
        return asked

    events = _with_pieces(running.events(make), body, running, head, known_pieces(request))
    return await _answer(request, body, events, head, ChatShape())


@router.post("/api/generate")
async def generate(body: GenerateBody, request: Request) -> Response:
    """Answer or continue a text; without one load the model, or unload it (`keep_alive` 0)."""
    models, asker = served_of(request), caller_of(request)
    name = resolved(models, body.model)
    head = Head(body.model)
    running = Running(models, name, body.keep, head.watch)
    check_generate(body, (await models.facts(name)).template)
    if is_only_loading(body):
        return await _loaded(request, running, head, GenerateShape())
    prompts = _Prompts(running, body, head)
    request_id = models.new_id("generate-")
    text_request(body, request_id, asker.tenant, "-")  # what is wrong with it is known before

    async def make(ready: Ready) -> GenerateRequest:
        _warn(head, body, ready)
        prompt = await prompts.prompt(has_template=ready.has_template)
        return text_request(body, request_id, asker.tenant, prompt)

    events = running.events(make, prompts.tell)
    with_pieces = _with_pieces(events, body, running, head, known_pieces(request))
    return await _answer(request, body, with_pieces, head, GenerateShape())


class _Prompts:
    """The prompt of a request to generate, and its ids for the `context` of the answer."""

    def __init__(self, running: Running, body: GenerateBody, head: Head) -> None:
        self._running = running
        self._body = body
        self._head = head
        self._told: tuple[str, dict[str, Any]] | None = None
        """What to ask for the ids, where they are not known yet."""

    async def prompt(self, *, has_template: bool) -> Chat | str | tuple[int, ...]:
        """What is to be continued. Raises what asking the model raises."""
        body = self._body
        if body.suffix:
            running = self._running
            (ids,) = await infilled(running.models, running.name, [body.prompt or ""], body.suffix)
            return ids
        if body.raw:
            found = await self._ask("tokenize", text=body.prompt, parse_special=True)
            return tuple(found)
        said = await self._after_context(has_template) if body.context else self._said(has_template)
        return said

    async def tell(self) -> None:
        """Look up the ids of the prompt for the answer's last record."""
        if self._told is not None:
            operation, arguments = self._told
            self._head.prompt = await self._ask(operation, **arguments)

    def _said(self, has_template: bool) -> Chat | str:  # noqa: FBT001 - one of two forms
        """The prompt as a question where there is a template, else as it is."""
        if not has_template:
            text = "\n\n".join(filter(None, (self._body.system, self._body.prompt)))
            self._told = ("tokenize", {"text": text})
            return text
        chat = generate_chat(self._body)
        self._told = ("render", _rendering(chat))
        return chat

    async def _after_context(self, has_template: bool) -> tuple[int, ...]:  # noqa: FBT001
        """The same behind what an answer before gave as its context."""
        self._said(has_template)
        assert self._told is not None
        operation, arguments = self._told
        begin: list[int] = await self._ask("tokenize", text="")
        ids = await self._ask(operation, **arguments)
        if begin and ids[: len(begin)] == begin:  # a text begins once
            ids = ids[len(begin) :]
        whole = [*(self._body.context or ()), *ids]
        self._told, self._head.prompt = None, whole
        return tuple(whole)

    async def _ask(self, operation: str, **arguments: Any) -> list[int]:  # noqa: ANN401
        running = self._running
        found: list[int] = await running.models.ask(running.name, operation, **arguments)
        return found


def _rendering(chat: Chat) -> dict[str, Any]:
    return {"messages": list(chat.messages), "thinks": chat.thinks, "variables": chat.variables}


def _warn(head: Head, body: TextBody, ready: Ready) -> None:
    head.warnings += option_warnings(body.options or Options(), ready.context_length)


def _with_pieces(
    events: AsyncIterator[Burst], body: TextBody, running: Running, head: Head, known: KnownPieces
) -> AsyncIterator[Burst]:
    """The events, with the texts of tokens at hand where log-probabilities are told."""
    if not body.logprobs:
        return events
    pieces = PiecesOf(known, running.models, running.name)
    head.pieces = pieces.here
    return pieces.ahead_of(events)


async def _answer(
    request: Request, body: TextBody, events: AsyncIterator[Burst], head: Head, shape: Shape
) -> Response:
    if body.is_streamed:
        return await streamed(events, RecordEncoder(head, shape), failure)
    return await collected(request, events, RecordCollector(head, shape), failure)


async def _loaded(request: Request, running: Running, head: Head, shape: Shape) -> Response:
    reason = await while_connected(request, running.only_load())
    return Response(loaded_body(head, shape, reason), media_type="application/json")
