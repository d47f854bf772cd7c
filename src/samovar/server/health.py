"""Whether the server is there, what it is ready for, and what it has counted."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from samovar.errors import SamovarError
from samovar.server.metrics import CONTENT_TYPE, exposition
from samovar.server.observing import Observers, worker_metrics
from samovar.server.preloading import Preloading
from samovar.server.served import Served

logger = logging.getLogger(__name__)
router = APIRouter(tags=["health"])

_LOOK_SECONDS = 2.0  # for a worker to answer between two steps; who counts does not wait for more


@router.get("/health")
@router.head("/health", include_in_schema=False)
async def health() -> dict[str, str]:
    """Whether the server is there."""
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)
@router.get("/ready", responses={503: {"description": "Models are still being loaded."}})
async def ready(request: Request) -> JSONResponse:
    """Whether what is to be loaded at the start is, and the state of each model."""
    served: Served = request.app.state.served
    preloading: Preloading = request.app.state.preloading
    status = served.runtime.status()
    models = {name: _state(status.get(name), preloading, name) for name in served.names()}
    is_ready = preloading.is_over and not preloading.failures
    body = {"status": "ready" if is_ready else "not_ready", "models": models}
    return JSONResponse(body, 200 if is_ready else 503)


def _state(status: dict[str, Any] | None, preloading: Preloading, name: str) -> dict[str, Any]:
    if status is not None:
        return {
            "state": status["phase"],
            "progress": status["progress"],
            "open_requests": status["open_requests"],
            "restarts": status["restarts"],
        }
    if name in preloading.failures:
        return {"state": "failed", "reason": preloading.failures[name]}
    is_awaited = name in preloading.names and not preloading.is_over
    return {"state": "waiting" if is_awaited else "not_loaded"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """What was counted, as Prometheus reads it."""
    served: Served = request.app.state.served
    observers: Observers = request.app.state.observers
    status = served.runtime.status()
    found = await asyncio.gather(*(_looked(served, name, said) for name, said in status.items()))
    workers = worker_metrics(dict(zip(status, found, strict=True)))
    return Response(exposition([*observers.metrics(), *workers]), media_type=CONTENT_TYPE)


async def _looked(served: Served, name: str, said: dict[str, Any]) -> dict[str, Any]:
    """What a worker says; without its part if it is not there or busy with a long step."""
    found = {
        "open_requests": said["open_requests"],
        "restarts": said["restarts"],
        "is_ready": said["phase"] == "ready",
    }
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            found |= await served.runtime.look(name, "status")
            found["cache"] = await served.runtime.look(name, "cache_info")
    except (SamovarError, TimeoutError) as error:
        logger.info("%s says nothing of itself: %s", name, error)
    return found
