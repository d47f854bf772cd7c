"""The application: every dialect's routes over one runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI

from samovar.config import RuntimeConfig
from samovar.runtime.runtime import Runtime
from samovar.server import anthropic, ollama, openai, responses
from samovar.server.served import Served, ServedModel
from samovar.version import __version__


def create_app(models: Sequence[ServedModel], runtime: RuntimeConfig | None = None) -> FastAPI:
    """An application that serves these models. They are loaded when they are first asked for."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Runtime(runtime) as opened:
            app.state.served = Served(opened, models)
            yield

    app = FastAPI(title="Samovar", version=__version__, lifespan=lifespan)

    for dialect in (openai, responses, anthropic, ollama):
        app.include_router(dialect.router)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server is there."""
        return {"status": "ok"}

    return app
