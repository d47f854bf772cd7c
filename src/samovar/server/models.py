"""`/v1/models`: Anthropic's clients say which version they speak, all others are OpenAI's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from samovar.api.anthropic import models as anthropic
from samovar.api.openai import models as openai
from samovar.errors import ModelNotFound
from samovar.server.asking import served
from samovar.server.failing import dialect_of
from samovar.server.served import Served

router = APIRouter(tags=["models"])

_JSON = "application/json"
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "There is no such model."}}


@router.get("/v1/models", response_class=Response)
async def list_models(
    request: Request,
    having: Annotated[Served, Depends(served)],
    limit: Annotated[int, Query(ge=1, le=anthropic.MAX_LIMIT)] = anthropic.DEFAULT_LIMIT,
    after_id: str | None = None,
    before_id: str | None = None,
) -> Response:
    """Every model that can be asked for. Anthropic's clients page through them."""
    facts = [await having.facts(name) for name in having.names()]
    if dialect_of(request.scope) == "anthropic":
        body = anthropic.models_body(facts, limit, after_id, before_id)
    else:
        body = openai.models_body(facts)
    return Response(body, media_type=_JSON)


@router.get("/v1/models/{model:path}", response_class=Response, responses=_NOT_FOUND)
async def get_model(
    request: Request, model: str, having: Annotated[Served, Depends(served)]
) -> Response:
    """One model. Names may hold slashes."""
    if model not in having.names():
        raise ModelNotFound("there is no such model; /v1/models lists those there are")
    facts = await having.facts(model)
    dialect = anthropic if dialect_of(request.scope) == "anthropic" else openai
    return Response(dialect.model_body(facts), media_type=_JSON)
