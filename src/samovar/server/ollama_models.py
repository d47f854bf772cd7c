"""Ollama's routes about models, and those that manage models, which this server does not do."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from samovar.api.ollama.models import Loaded, ps_body, show_body, tags_body
from samovar.api.ollama.requests import OfModel
from samovar.errors import LoadFailed, UnsupportedModel
from samovar.server.ollama_running import Models, resolved
from samovar.version import __version__

router = APIRouter()

API_LEVEL = "0.12.11"
"""The version of Ollama whose API this is: clients refuse to work with older ones."""

_UNMANAGED = (
    "this server does not fetch, make, copy or delete models; start it with the GGUF files that it"
    " is to serve"
)


class ShowBody(OfModel):
    """The body of /api/show."""

    verbose: bool | None = None


@router.get("/", response_class=PlainTextResponse)
@router.head("/", include_in_schema=False, response_class=PlainTextResponse)
async def running() -> str:
    """What Ollama's clients look for."""
    return "Ollama is running"


@router.get("/api/version")
@router.head("/api/version", include_in_schema=False)
async def version() -> dict[str, str]:
    """The version of the API, and ours."""
    return {"version": API_LEVEL, "samovar": __version__}


@router.get("/api/tags")
@router.head("/api/tags", include_in_schema=False)
async def tags(models: Models) -> Response:
    """Every model, loaded or not."""
    facts = [await models.facts(name) for name in models.names()]
    return _json(tags_body(facts))


@router.get("/api/ps")
@router.head("/api/ps", include_in_schema=False)
async def ps(models: Models) -> Response:
    """The models that are loaded."""
    loaded = [
        Loaded(await models.facts(name), about["context_length"], about["remaining_seconds"])
        for name, about in models.runtime.status().items()
        if about["context_length"] is not None
    ]
    return _json(ps_body(loaded))


@router.post("/api/show")
async def show(body: ShowBody, models: Models) -> Response:
    """Everything about one model; its vocabulary as well if that is asked for (`verbose`)."""
    name = resolved(models, body.model)
    facts = await models.facts(name)
    if facts.problem is not None:
        raise LoadFailed(facts.problem)
    metadata = await models.metadata(name, is_whole=bool(body.verbose))
    return _json(show_body(facts, metadata, models.model(name).worker.context_length or None))


@router.post("/api/pull")
@router.post("/api/push")
@router.post("/api/create")
@router.post("/api/copy")
@router.delete("/api/delete")
@router.post("/api/blobs/{digest}")
@router.head("/api/blobs/{digest}", include_in_schema=False)
async def unmanaged() -> None:
    """Not done here."""
    raise UnsupportedModel(_UNMANAGED)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
