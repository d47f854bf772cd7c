"""Embeddings in OpenAI's dialect, and reranking in the one that Jina and Cohere share."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from samovar.api.openai.checks import ignored
from samovar.api.openai.embeddings import (
    EmbeddingsCollector,
    EmbeddingsRequest,
    decode_embeddings,
)
from samovar.api.openai.failures import failure
from samovar.api.openai.generation import ACCEPTED
from samovar.api.openai.rerank import RerankCollector, RerankRequest, decode_rerank
from samovar.server.openai_route import Asker, Models, OpenAIRoute, one_of, telling
from samovar.server.stream import collected

router = APIRouter(route_class=OpenAIRoute)


@router.post("/embeddings", include_in_schema=False)
@router.post("/v1/embeddings")
async def embeddings(
    body: EmbeddingsRequest, request: Request, models: Models, asker: Asker
) -> Response:
    """Texts to vectors."""
    name = one_of(models, body.model)
    asked = decode_embeddings(body, models.new_id("embd-"), asker.tenant)
    collector = EmbeddingsCollector(body, name)
    response = await collected(request, models.generate(name, asked), collector, failure)
    return telling(response, ignored(body, ACCEPTED))


@router.post("/rerank", include_in_schema=False)
@router.post("/v2/rerank", include_in_schema=False)
@router.post("/v1/rerank")
async def rerank(body: RerankRequest, request: Request, models: Models, asker: Asker) -> Response:
    """Documents by how well they fit a query."""
    name = one_of(models, body.model)
    asked = decode_rerank(body, models.new_id("rerank-"), asker.tenant)
    collector = RerankCollector(body, name)
    response = await collected(request, models.generate(name, asked), collector, failure)
    return telling(response, ignored(body, ACCEPTED))
