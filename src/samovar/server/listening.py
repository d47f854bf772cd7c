"""The socket, the loop around it, and how both come to an end.

The first SIGTERM or SIGINT: no new connections, and what runs may finish within `drain_seconds`;
what has not is told so as the last event of its stream. The second one: the process ends at once.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from samovar.config import ServerConfig
from samovar.errors import InvalidRequest
from samovar.server.connection import Connection, Outbox

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 2048  # connections that the kernel holds while the loop is busy
_SPARE = 256  # descriptors besides those of connections: models, workers, the log
_KILLED = 128  # what a shell adds to the number of the signal that ended a process


def bind(config: ServerConfig) -> socket.socket:
    """A socket on the address. Raises InvalidRequest, saying what to change."""
    where = f"{config.host}:{config.port}"
    try:
        found = socket.getaddrinfo(
            config.host.strip("[]"), config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        reason = error.strerror
        raise InvalidRequest(f"cannot listen on {where}: {reason}; give another --host") from None
    # Names that stand for both: clients that are told 127.0.0.1 are more than those told ::1.
    family, kind, protocol, _, address = min(found, key=lambda one: one[0] is not socket.AF_INET)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        text = f"cannot listen on {where}: {error.strerror}; give another --port or --host"
        raise InvalidRequest(text) from None
    return sock


def url_of(sock: socket.socket, config: ServerConfig) -> str:
    """How a client is told where to ask."""
    host, port = sock.getsockname()[:2]
    scheme = "http" if config.tls_cert is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def uvicorn_config(app: ASGIApp, config: ServerConfig) -> uvicorn.Config:
    """How uvicorn serves an application. Raises InvalidRequest for files of TLS that are none."""
    connection: Any = partial(Connection, limits=config, outbox=Outbox())
    made = uvicorn.Config(
        app,
        http=connection,
        ws="none",
        loop="uvloop" if find_spec("uvloop") else "asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        **_tls(config),
    )
    # Whole seconds only by their types; uvicorn only waits for so long.
    made.timeout_keep_alive = config.idle_seconds  # type: ignore[assignment]
    made.timeout_graceful_shutdown = config.drain_seconds  # type: ignore[assignment]
    return made


class Server(uvicorn.Server):
    """uvicorn's server, which says when it listens, and heeds every signal."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if self.started:
            self._on_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are this server's, and not raised again when it has ended."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heeded = [one for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
        before = {one: signal.signal(one, self._stop) for one in heeded}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _stop(self, number: int, _: object) -> None:
        if self.should_exit:
            os._exit(_KILLED + number)  # whatever hangs: workers end with this process
        self.should_exit = True


def raise_descriptor_limit(connections: int) -> None:
    """Allow this process as many descriptors as that takes, where it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _tls(config: ServerConfig) -> dict[str, Any]:
    if config.tls_cert is None or config.tls_key is None:
        return {}
    try:  # uvicorn would say it with a trace
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except OSError as error:  # SSLError is one
        files = f"{config.tls_cert} and {config.tls_key}"
        reason = error.strerror or "they do not fit together, or are no PEM files"
        raise InvalidRequest(f"cannot use {files} for TLS: {reason}") from None
    return {"ssl_certfile": config.tls_cert, "ssl_keyfile": config.tls_key}
