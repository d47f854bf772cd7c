"""Ollama's routes for embeddings: /api/embed, and the older /api/embeddings."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from samovar.api.ollama.answers import Watch
from samovar.api.ollama.failures import failure
from samovar.api.ollama.vectors import (
    EmbedBody,
    EmbedCollector,
    EmbeddingsBody,
    EmbeddingsCollector,
    embed_request,
    embeddings_request,
)
from samovar.api.wire import Collector
from samovar.ipc.messages import Ready
from samovar.server.ollama_running import Asker, Models, Running, resolved
from samovar.server.stream import collected, while_connected
from samovar.types import EmbedRequest

router = APIRouter()


@router.post("/api/embed")
async def embed(body: EmbedBody, request: Request, models: Models, asker: Asker) -> Response:
    """Texts to vectors of length 1; without texts load the model, or unload it."""
    running = Running(models, resolved(models, body.model), body.keep, Watch())
    collector = EmbedCollector(body.model, running.watch, body.dimensions)
    if not body.texts:
        return await _loaded(request, running, collector)
    asked = embed_request(body, models.new_id("embed-"), asker.tenant)
    return await _answer(request, running, asked, collector)


@router.post("/api/embeddings")
async def embeddings(
    body: EmbeddingsBody, request: Request, models: Models, asker: Asker
) -> Response:
    """One text to a vector as it is; without one load the model, or unload it."""
    running = Running(models, resolved(models, body.model), body.keep, Watch())
    collector = EmbeddingsCollector()
    if not body.prompt:
        return await _loaded(request, running, collector)
    asked = embeddings_request(body, models.new_id("embed-"), asker.tenant)
    return await _answer(request, running, asked, collector)


async def _answer(
    request: Request, running: Running, asked: EmbedRequest, collector: Collector
) -> Response:
    async def make(_: Ready) -> EmbedRequest:
        return asked

    return await collected(request, running.events(make), collector, failure)


async def _loaded(request: Request, running: Running, collector: Collector) -> Response:
    await while_connected(request, running.only_load())
    return Response(collector.body(), media_type="application/json")
