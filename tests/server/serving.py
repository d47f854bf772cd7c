"""A real server on a socket of its own, in a thread of the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from samovar.server.app import create_app
from samovar.server.served import ServedModel

PATIENCE = 60.0
"""Seconds: more than starting or stopping takes, however busy the machine is."""


@contextmanager
def serving(models: Sequence[ServedModel], **options: Any) -> Iterator[str]:  # noqa: ANN401
    """The base URL of a server of these models, until the block is left."""
    app = create_app(models, **options)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive(), "the server ended while it started"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server did not stop"
