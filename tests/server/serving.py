"""A real server on a socket of its own, in a thread of the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp, Receive, Send

from samovar.config import ServerConfig
from samovar.server.app import create_app
from samovar.server.listening import Server, bind, uvicorn_config
from samovar.server.served import ServedModel

PATIENCE = 60.0
"""Seconds: more than starting or stopping takes, however busy the machine is."""


@contextmanager
def serving(
    models: Sequence[ServedModel],
    config: ServerConfig | None = None,
    **options: Any,  # noqa: ANN401
) -> Iterator[str]:
    """The base URL of a server of these models, until the block is left."""
    config = config or ServerConfig(port=0)
    with listening(create_app(models, config=config, **options), config) as url:
        yield url


async def lifespan(receive: Receive, send: Send) -> None:
    """What a server expects of an application that begins and ends with it."""
    for kind in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{kind}"
        await send({"type": f"lifespan.{kind}.complete"})


@contextmanager
def listening(app: ASGIApp, config: ServerConfig) -> Iterator[str]:
    """The base URL of a server of an application, until the block is left."""
    server = Server(uvicorn_config(app, config), lambda: None)
    sock = bind(config)
    port = sock.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([sock],), name="server")
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive(), "the server ended while it started"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield f"{'https' if config.tls_cert else 'http'}://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server did not stop"
