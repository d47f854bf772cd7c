"""Who may come in: by which name they ask, from which page, with which key, and how often.

Four questions before anything is read: is the Host header one of this server's (else a page of the
web had a name of its own lead here), is a page that asks one that may (browsers send some requests
without asking first), does the key allow what is asked, and is it within the key's rates.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from samovar.config import ServerConfig, is_loopback
from samovar.server.caller import Caller
from samovar.server.current import current
from samovar.server.failing import refuse
from samovar.server.keys import Key, Keys
from samovar.types import Failed

_PUBLIC = frozenset({"/", "/health", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
_ADMIN = re.compile(
    r"/(metrics|cache|sessions)(/|$)|/api/(create|copy|delete|pull|push|blobs)(/|$)"
)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, config: ServerConfig, keys: Keys | None) -> None:
        self._app = app
        self._keys = keys
        self._is_local = config.is_local
        self._hosts = frozenset(name.lower() for name in config.allowed_hosts)
        self._origins = frozenset(config.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or answer it with why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        caller = Caller(request_id=scope["state"]["request_id"])
        failed = self._stranger(scope, headers)
        key: Key | None = None
        if failed is None and self._keys is not None and scope["path"] not in _PUBLIC:
            key = self._keys.find(_presented(headers))
            failed = _unauthorized(headers) if key is None else _forbidden(key, scope["path"])
        if failed is None and key is not None:
            caller = Caller(key.tenant, key.scopes, caller.request_id)
            failed = _admitted(key, scope)
        if failed is not None:
            more = {"WWW-Authenticate": "Bearer"} if failed.code == "unauthorized" else None
            await refuse(scope, receive, send, failed, more)
            return
        scope["state"]["caller"] = caller
        await self._app(scope, receive, send)

    def _stranger(self, scope: Scope, headers: dict[bytes, bytes]) -> Failed | None:
        host = _host(headers.get(b"host", b"").decode("latin-1"))
        if self._is_local and host and not is_loopback(host) and host not in self._hosts:
            text = (
                "this server is asked by a name that is not its own; ask localhost, or start it"
                " with --allowed-host"
            )
            return Failed("", "forbidden", text)
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or scope["method"] in _SAFE or self._origins & {"*", origin}:
            return None
        if host and _netloc(origin) == headers[b"host"].decode("latin-1"):
            return None
        text = "web pages of other origins may not ask; start the server with --cors-origin"
        return Failed("", "forbidden", text)


def _host(value: str) -> str:
    """A Host header without its port."""
    return re.sub(r":\d*$", "", value).lower()


def _netloc(origin: str) -> str:
    """The name and port of an origin; empty for what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _presented(headers: dict[bytes, bytes]) -> bytes:
    kind, _, key = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() == b"bearer":
        return key.strip()
    return headers.get(b"x-api-key", b"").strip()


def _unauthorized(headers: dict[bytes, bytes]) -> Failed:
    text = "this API key is not known; use one from the server's key file"
    if not _presented(headers):
        text = "an API key is needed: send it as `Authorization: Bearer KEY`, or as `x-api-key`"
    return Failed("", "unauthorized", text)


def _forbidden(key: Key, path: str) -> Failed | None:
    needed = "admin" if _ADMIN.match(path) else "inference"
    if needed in key.scopes or (path == "/ready" and key.scopes):
        return None
    return Failed("", "forbidden", f"this needs an API key of the scope {needed}")


def _admitted(key: Key, scope: Scope) -> Failed | None:
    """Count what asks models; looking at things is free."""
    if scope["method"] in _SAFE or _ADMIN.match(scope["path"]):
        return None
    request = current()
    if request is not None:
        request.account = key.account
    wait = key.account.admit()
    if not wait:
        return None
    text = "this API key has used up what it may per minute; try again later"
    return Failed("", "rate_limited", text, retryable=True, retry_after_seconds=wait)
