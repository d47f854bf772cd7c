"""Anthropic's routes: messages, counting their tokens, and no batches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from samovar.api.anthropic.answer import AnswerTo
from samovar.api.anthropic.collector import MessageCollector
from samovar.api.anthropic.diagnostics import Asked, Remembered, asked_of
from samovar.api.anthropic.encoder import MessagesEncoder
from samovar.api.anthropic.failures import failure
from samovar.api.anthropic.request import chat_of, request_of, salt_of
from samovar.api.anthropic.schema import ConversationFields, MessagesFields, ignored
from samovar.api.anthropic.signing import Signer
from samovar.api.wire import JSON, SSE
from samovar.config import default_cache_directory
from samovar.server.asking import caller, caller_of, served, served_of
from samovar.server.caller import Caller
from samovar.server.openai_route import telling
from samovar.server.served import Served
from samovar.server.signing_key import signing_key
from samovar.server.stream import collected, respond_failure, streamed
from samovar.types import Burst, Failed, Finished

router = APIRouter(tags=["Anthropic"])

Models = Annotated[Served, Depends(served)]
Asker = Annotated[Caller, Depends(caller)]

_RENDERED = ("messages", "tools", "thinks", "variables", "continues_last", "replays", "volatile")
"""Fields of a Chat that its prompt depends on."""


async def signer(request: Request) -> Signer:
    """What signs thinking here; for `Depends`. Its key lies where the first model's cache does."""
    state, models = request.app.state, served_of(request)
    if not hasattr(state, "signer"):
        caches = [models.model(name).cache for name in models.names()]
        places = [cache.directory for cache in caches if cache is not None]
        key = await asyncio.to_thread(signing_key, (places or [default_cache_directory()])[0])
        if not hasattr(state, "signer"):  # nobody else was faster
            state.signer = Signer(key)
    found: Signer = state.signer
    return found


Signs = Annotated[Signer, Depends(signer)]


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {JSON: {}, SSE: {}}, "description": "A message, or the events of one."},
    "4XX": {"description": "Something in the request is wrong; the message says what."},
    "5XX": {"description": "Not now, or not here; 529: too busy."},
}


@router.post("/v1/messages", response_class=Response, responses=_RESPONSES)
async def create_message(body: MessagesFields, request: Request) -> Response:
    """Answer a conversation, in one piece or as a stream."""
    models, asker, signs = served_of(request), caller_of(request), await signer(request)
    models.model(body.model)
    message_id = models.new_id("msg_")
    asked = request_of(body, signs, message_id, asker.tenant, models.volatile)
    shows = body.thinking is None or body.thinking.display != "omitted"
    request_id = _request_id(request, asker)
    events: AsyncIterator[Burst] = models.generate(body.model, asked)
    diagnostics = None
    if body.diagnostics is not None:
        remembered, known = _remembered(request), asked_of(body, salt_of(body, asker.tenant))
        diagnostics = remembered.compare(body.diagnostics.previous_message_id, body, known)
        remembered.remember(message_id, known)
        events = _noted(events, known)
    answer = AnswerTo(
        message_id,
        body.model,
        body.max_tokens,
        shows_thinking=shows,
        is_stored=asked.is_stored,
        request_id=request_id,
        diagnostics=diagnostics,
    )
    failures = partial(failure, request_id=request_id)
    if body.stream:
        response = await streamed(events, MessagesEncoder(answer, signs), failures)
    else:
        collector = MessageCollector(answer, signs)
        response = await collected(request, events, collector, failures)
    return telling(response, ignored(body))


@router.post(
    "/v1/messages/count_tokens", responses={name: _RESPONSES[name] for name in ("4XX", "5XX")}
)
async def count_tokens(
    body: ConversationFields, models: Models, asker: Asker, signs: Signs
) -> dict[str, int]:
    """How many input tokens a conversation is: rendered as an answer to it would have it."""
    models.model(body.model)
    chat = chat_of(body, signs, models.volatile)
    asked = {name: getattr(chat, name) for name in _RENDERED}
    salt = salt_of(body, asker.tenant)
    tokens = await models.ask(body.model, "render", salt=salt, **asked)
    return {"input_tokens": len(tokens)}


@router.api_route("/v1/messages/batches", methods=["GET", "POST"], include_in_schema=False)
@router.api_route(
    "/v1/messages/batches/{rest:path}", methods=["GET", "POST", "DELETE"], include_in_schema=False
)
async def batches(request: Request, asker: Asker) -> Response:
    """There are none; what a batch would hold can be sent all at once, and waits for its turn."""
    text = "there are no batches; send the requests as they are: they are computed side by side"
    return respond_failure(failure(Failed(_request_id(request, asker), "not_found", text)))


@router.post("/api/event_logging/{rest:path}", include_in_schema=False)
async def event_logging() -> Response:
    """What Claude Code tells of its use goes nowhere; after a 404 it would try again and again."""
    return Response(status_code=204)


def _remembered(request: Request) -> Remembered:
    state = request.app.state
    if not hasattr(state, "remembered"):
        state.remembered = Remembered()
    found: Remembered = state.remembered
    return found


async def _noted(bursts: AsyncIterator[Burst], known: Asked) -> AsyncIterator[Burst]:
    """The same events; how long the prompt was is remembered."""
    async with contextlib.aclosing(bursts) as stream:  # type: ignore[type-var]
        async for burst in stream:
            last = burst[-1]
            if isinstance(last, Finished):
                known.prompt_tokens = last.usage.prompt_tokens
            yield burst


def _request_id(request: Request, asker: Caller) -> str:
    return asker.request_id or str(getattr(request.state, "request_id", ""))
