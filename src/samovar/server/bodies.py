"""Bodies of requests: read whole, in time, within limits, and found to be JSON before any route.

Refused are bodies that are too large (counted while they are read), too slow, compressed, not
UTF-8, not JSON, nested deeper than parsers stand, or of more parts than can be read while others
wait: a byte of text costs nothing, an empty list some microseconds. What routes read comes from
memory.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samovar.config import ServerConfig
from samovar.errors import InvalidRequest, Overloaded, SamovarError
from samovar.server.failing import refuse
from samovar.server.stream import ClientGone, failed_of
from samovar.types import Failed

_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_RAW = ("/api/blobs/",)  # bytes of a file, which their route reads itself
_JSON = (b"content-type", b"application/json")

_MOST_CONTAINERS = 2**17  # lists and objects: thousands of messages in parts take a third of it
_MOST_STRINGS = 2**19  # names of fields included; twice a bias for each token of a vocabulary
_MOST_VALUES = 2**21  # numbers, mostly ids: twice the longest contexts there are


class _Refused(Exception):
    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.code)
        self.failed = failed


class Bodies:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._config = config
        self._held = 0
        """Bytes of bodies that requests hold now."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, and hand the request on with it."""
        if not _has_json(scope):
            await self._app(scope, receive, send)
            return
        read = bytearray()
        held = 0
        try:
            try:
                self._check_headers(scope)
                await self._read(receive, read)
                held, body = len(read), bytes(read)
                read.clear()
                if body:
                    check_json(body, self._config.max_depth)
            except _Refused as refused:
                await refuse(scope, receive, send, refused.failed)
                return
            except SamovarError as error:
                await refuse(scope, receive, send, failed_of(error))
                return
            if body:  # curl calls everything a form, and some clients say nothing
                others = [one for one in scope["headers"] if one[0] != b"content-type"]
                scope["headers"] = [*others, _JSON]
            await self._app(scope, _Again(body, receive), send)
        finally:
            self._held -= held + len(read)

    def _check_headers(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").lower() not in (b"", b"identity"):
            text = "compressed bodies are not read; send the JSON as it is"
            raise _Refused(Failed("", "unsupported_media_type", text))
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._config.max_body_bytes:
            raise self._too_large()

    async def _read(self, receive: Receive, body: bytearray) -> None:
        config = self._config
        try:
            async with asyncio.timeout(config.body_seconds):
                while True:
                    async with asyncio.timeout(config.body_idle_seconds):
                        message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    data = message.get("body", b"")
                    if len(body) + len(data) > config.max_body_bytes:
                        raise self._too_large()
                    if self._held + len(data) > config.max_bodies_bytes:
                        raise Overloaded("too many large requests at once; try again later")
                    body += data
                    self._held += len(data)
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            text = "the body came too slowly; send it without pauses"
            raise _Refused(Failed("", "request_timeout", text)) from None

    def _too_large(self) -> _Refused:
        most = self._config.max_body_bytes
        text = f"the body is larger than {most} bytes, the most that is read; send less"
        return _Refused(Failed("", "request_too_large", text))


class _Again:
    """`receive` for those behind: the body, and then whatever else comes."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        """The next message."""
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def check_json(body: bytes, max_depth: int) -> None:
    """Raises InvalidRequest if it is no JSON, too deep, or has too many parts. Never says what."""
    _check_parts(body)
    try:
        value = msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8 (byte {error.start}); encode it so") from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if body.count(b"[") + body.count(b"{") > max_depth and _is_deeper(value, max_depth):
        raise _too_deep(max_depth)


def _check_parts(body: bytes) -> None:
    """Before anything is made of them. Text may hold as many brackets and commas as it likes."""
    if _are_few(body, body.count(b'"')):
        return
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = bare.count(b'"')
    if quotes <= 2 * _MOST_STRINGS and _are_few(b"".join(bare.split(b'"')[::2]), quotes):
        return
    raise InvalidRequest(
        f"the body has more than {_MOST_CONTAINERS} lists and objects, {_MOST_STRINGS} strings or"
        f" {_MOST_VALUES} numbers; send fewer at once"
    )


def _are_few(text: bytes, quotes: int) -> bool:
    """Whether so many parts can be read, if all that looks like one is."""
    return (
        quotes <= 2 * _MOST_STRINGS
        and text.count(b"[") + text.count(b"{") <= _MOST_CONTAINERS
        and text.count(b",") <= _MOST_VALUES
    )


def _too_deep(max_depth: int) -> InvalidRequest:
    return InvalidRequest(f"the body nests deeper than {max_depth} levels; send flatter JSON")


def _is_deeper(value: Any, most: int) -> bool:  # noqa: ANN401 - any JSON
    """Level by level, without recursion."""
    level = [value]
    for _ in range(most):
        below: list[Any] = []
        for one in level:
            if type(one) is dict:
                below += [each for each in one.values() if type(each) in (dict, list)]
            elif type(one) is list:
                below += [each for each in one if type(each) in (dict, list)]
        if not below:
            return False
        level = below
    return True


def _has_json(scope: Scope) -> bool:
    return (
        scope["type"] == "http"
        and scope["method"] in _WITH_BODY
        and not scope["path"].startswith(_RAW)
    )
