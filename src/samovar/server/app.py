"""The application: every dialect's routes over one runtime.

    Edge (ids, ends, counts) ─> CORS ─> Gate (hosts, keys, rates) ─> Bodies ─> routes

Layers are plain ASGI: each costs a call per message, and none of them a task.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from samovar.config import RuntimeConfig, ServerConfig
from samovar.runtime.runtime import Runtime
from samovar.server import (
    admin,
    anthropic,
    document,
    failing,
    health,
    models,
    ollama,
    openai,
    responses,
)
from samovar.server.bodies import Bodies
from samovar.server.edge import Edge
from samovar.server.gate import Gate
from samovar.server.keys import read_keys
from samovar.server.observing import Observers
from samovar.server.preloading import Preloading
from samovar.server.served import Served, ServedModel
from samovar.server.tracing import tracer
from samovar.version import __version__

_METHODS = ("GET", "POST", "DELETE", "OPTIONS", "HEAD")
_CORS_SECONDS = 600  # browsers ask so often whether they may


def create_app(
    models: Sequence[ServedModel],
    runtime: RuntimeConfig | None = None,
    config: ServerConfig | None = None,
) -> FastAPI:
    """An application that serves these models, loaded when they are first asked for or at once.

    Raises InvalidRequest for a file of API keys that is none.
    """
    config = config or ServerConfig()
    observers = Observers(tracer())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Runtime(runtime) as opened:
            served = Served(opened, models, observers, config)
            preloading = Preloading(served, runtime or RuntimeConfig(), is_on=config.preloads)
            app.state.served, app.state.preloading = served, preloading
            app.state.observers = observers
            loading = asyncio.create_task(preloading.run())
            try:
                yield
            finally:
                loading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await loading
                observers.close()

    app = FastAPI(
        title="Samovar",
        version=__version__,
        lifespan=lifespan,
        description="Runs GGUF models with llama.cpp and keeps prompts hot.",
        strict_content_type=False,
    )
    failing.install(app)
    document.install(app)
    _add_routes(app)
    _add_layers(app, config, observers)
    return app


def _add_routes(app: FastAPI) -> None:
    # Looked through in this order: what is asked all the time comes first.
    for one in (openai, anthropic, ollama, responses, models, health, admin):
        app.include_router(one.router)


def _add_layers(app: FastAPI, config: ServerConfig, observers: Observers) -> None:
    """The last one that is added is the outermost."""
    keys = None if config.keys_file is None else read_keys(config.keys_file)
    app.add_middleware(Bodies, config=config)
    app.add_middleware(Gate, config=config, keys=keys)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=_METHODS,
            allow_headers=("*",),
            expose_headers=("x-request-id", "request-id", "retry-after"),
            max_age=_CORS_SECONDS,
        )
    app.add_middleware(Edge, observers=observers, logs_requests=config.logs_requests)
