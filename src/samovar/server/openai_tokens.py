"""Text to token ids and back. Not OpenAI's: llama-server and vLLM serve them beside its routes."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from samovar.api.openai.checks import ignored
from samovar.api.openai.generation import ACCEPTED
from samovar.api.openai.tokens import (
    DetokenizeRequest,
    TokenizeRequest,
    detokenized_body,
    question_of,
    tokenized_body,
)
from samovar.api.wire import JSON
from samovar.server.openai_route import Models, OpenAIRoute, one_of, telling
from samovar.server.served import Served
from samovar.server.stream import while_connected

router = APIRouter(route_class=OpenAIRoute)


@router.post("/tokenize", include_in_schema=False)
@router.post("/v1/tokenize")
async def tokenize(body: TokenizeRequest, request: Request, models: Models) -> Response:
    """The token ids of a text or of a conversation."""
    name = one_of(models, body.model)
    answer = await while_connected(request, _tokenized(models, name, body))
    return telling(Response(answer, media_type=JSON), ignored(body, ACCEPTED))


async def _tokenized(models: Served, name: str, body: TokenizeRequest) -> bytes:
    operation, arguments = question_of(body)
    ready = await models.ready(name)
    tokens: list[int] = await models.ask(name, operation, **arguments)
    pieces: list[bytes] | None = None
    if body.with_pieces:
        pieces = [text for text, _ in await models.ask(name, "pieces", tokens=tokens)]
    return tokenized_body(name, tokens, ready.context_length, pieces)


@router.post("/detokenize", include_in_schema=False)
@router.post("/v1/detokenize")
async def detokenize(body: DetokenizeRequest, request: Request, models: Models) -> Response:
    """The text of token ids."""
    name = one_of(models, body.model)
    text: str = await while_connected(request, models.ask(name, "detokenize", tokens=body.tokens))
    answer = Response(detokenized_body(name, text), media_type=JSON)
    return telling(answer, ignored(body, ACCEPTED))
