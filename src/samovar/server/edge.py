"""The outermost layer: a request has an id, an end, a line in the log, and a place in the counts.

Whatever goes wrong further in without being said there is a bug: it is logged with its trace under
the request's id, and the client is told the id and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samovar.server.current import Current, set_current
from samovar.server.failing import dialect_of, refuse
from samovar.server.observing import Exchange, Observers
from samovar.server.stream import ClientGone, internal_failure
from samovar.types import Failed

logger = logging.getLogger(__name__)
requests = logging.getLogger("samovar.requests")

_SANE = re.compile(rb"[\w.:-]{1,128}", re.ASCII)
_GONE = 499  # nginx's status for a client that did not wait


class Edge:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, observers: Observers, *, logs_requests: bool) -> None:
        self._app = app
        self._observers = observers
        self._logs = logs_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Exchange(scope, send, self._observers, logs=self._logs).serve(self._app, receive)


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, send: Send, observers: Observers, *, logs: bool) -> None:
        self._scope = scope
        self._send = send
        self._observers = observers
        self._logs = logs
        self._id = _request_id(scope)
        self._request = Current(self._id)
        self._status = 0
        self._began = time.monotonic()

    async def serve(self, app: ASGIApp, receive: Receive) -> None:
        set_current(self._request)
        self._scope.setdefault("state", {})["request_id"] = self._id
        self._observers.began(self._scope, self._request)
        try:
            await app(self._scope, receive, self.send)
        except ClientGone:
            self._status = _GONE
        except asyncio.CancelledError:
            await self._shut_down(receive)
        except Exception:
            logger.exception("request %s failed", self._id)
            if not self._status:
                await refuse(self._scope, receive, self.send, internal_failure())
        finally:
            self._ended()

    async def send(self, message: Message) -> None:
        """Send on, with the id."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            own = [(b"x-request-id", self._id.encode())]
            if dialect_of(self._scope) == "anthropic":
                own.append((b"request-id", own[0][1]))
            if self._request.account is not None:
                own += self._request.account.headers()
            message["headers"] = [*message.get("headers", ()), *own]
        await self._send(message)

    async def _shut_down(self, receive: Receive) -> None:
        """The time for what runs is over: this task ends here, whatever it is told."""
        if not self._status:
            text = "the server is shutting down; try again"
            await refuse(
                self._scope, receive, self.send, Failed("", "unavailable", text, retryable=True)
            )

    def _ended(self) -> None:
        scope, seconds = self._scope, time.monotonic() - self._began
        route = getattr(scope.get("route"), "path", "unmatched")
        exchange = Exchange(dialect_of(scope), route, scope["method"], self._status, seconds)
        self._observers.ended(self._request, exchange)
        if self._logs:
            requests.info(
                "%s %s %d %.3f s %s", scope["method"], route, self._status, seconds, self._id
            )


def _request_id(scope: Scope) -> str:
    """The client's own, if it is one; else ours."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE.fullmatch(value):
            return str(value, "ascii")
    return f"req_{secrets.token_hex(12)}"
