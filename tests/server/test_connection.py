"""Clients that are slow, silent, or too many: each is let go, and nobody else notices."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from samovar.config import ServerConfig
from samovar.server.listening import raise_descriptor_limit
from tests.conftest import scaled
from tests.server.conftest import mini
from tests.server.serving import PATIENCE, lifespan, listening, serving

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"


@contextmanager
def connected(url: str, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """A connection to a server."""
    address = httpx.URL(url)
    with socket.socket() as sock:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect((address.host, address.port))
        yield sock


def all_of(sock: socket.socket) -> bytes:
    """Everything until the other end closes."""
    found = b""
    try:
        while data := sock.recv(2**16):
            found += data
    except ConnectionResetError:
        pass
    return found


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of little patience."""
    config = ServerConfig(
        port=0, head_seconds=0.3, body_idle_seconds=0.3, body_seconds=0.9, max_body_bytes=2**20
    )
    with serving([mini(tmp_path_factory.mktemp("kv"))], config) as url:
        yield url


def test_a_client_that_says_nothing_is_let_go(hasty: str) -> None:
    with connected(hasty) as sock:
        assert all_of(sock) == b""


def test_a_head_that_comes_drop_by_drop_is_not_waited_for(hasty: str) -> None:
    with connected(hasty) as sock:
        sock.sendall(HEAD)
        drops = threading.Thread(target=_drip, args=(sock, b"X-Drop: 1\r\n"))
        drops.start()
        assert all_of(sock).startswith(b"HTTP/1.1 408 ")
        drops.join(PATIENCE)


def test_a_body_that_comes_drop_by_drop_is_not_waited_for(hasty: str) -> None:
    with connected(hasty) as sock:
        sock.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
        drops = threading.Thread(target=_drip, args=(sock, b" "))
        drops.start()
        said = sock.recv(2**16)
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"x-request-id: req_" in said
        assert b"too slowly" in said + all_of(sock)
        drops.join(PATIENCE)


def test_a_body_that_stops_is_not_waited_for(hasty: str) -> None:
    with connected(hasty) as sock:
        sock.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"model"')
        assert sock.recv(2**16).startswith(b"HTTP/1.1 408 ")


def test_empty_lines_are_no_requests(hasty: str) -> None:
    with connected(hasty) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = b""
        while b"ok" not in said:  # the head of a response may come alone
            more = sock.recv(2**16)
            assert more
            said += more
        sock.sendall(b"\r\n\r\n")
        assert b" 200 " not in all_of(sock)


def _drip(sock: socket.socket, drop: bytes) -> None:
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            sock.sendall(drop)
            time.sleep(0.05)
    except OSError:
        return


def test_who_would_rather_speak_something_else_is_answered(server: str) -> None:
    """As Java's HttpClient asks, unless it is told not to: once, and again on the connection."""
    address = httpx.URL(server)
    body = b'{"model": "samovar-mini", "prompt": "a", "max_tokens": 1}'
    wish = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMA"}
    with closing(HTTPConnection(address.host, address.port, PATIENCE)) as connection:
        for _ in range(2):
            connection.request("POST", "/v1/completions", body, wish)
            response = connection.getresponse()
            assert (response.status, response.read()[:1]) == (200, b"{")


def test_a_head_without_end_is_refused(hasty: str) -> None:
    with connected(hasty) as sock:
        sock.sendall(HEAD + b"X-Long: " + b"a" * 2**18)
        said = all_of(sock)
        assert not said or b" 431 " in said or b" 400 " in said


def test_more_connections_than_allowed_are_told_so() -> None:
    config = ServerConfig(port=0, max_connections=2)
    with listening(_endless, config) as url, ExitStack() as stack:
        first = [stack.enter_context(connected(url)) for _ in range(2)]
        for sock in first:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(16).startswith(b"HTTP/1.1 200 ")
        assert b" 503 " in all_of(stack.enter_context(connected(url)))
        for sock in first:
            sock.close()


async def _endless(scope: Scope, receive: Receive, send: Send) -> None:
    """Says more than anybody wants to hear."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    waiting = asyncio.ensure_future(_gone(receive))
    while not waiting.done():
        await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": True})
        await asyncio.sleep(0)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def test_a_client_that_takes_nothing_is_let_go() -> None:
    over = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await _endless(scope, receive, send)
        if scope["type"] == "http":
            over.set()

    config = ServerConfig(port=0, write_seconds=0.3)
    with listening(app, config) as url, connected(url, receive_buffer=4096) as sock:
        before = _memory()
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert over.wait(PATIENCE)
        assert _memory() - before < 64 * 2**20


def test_requests_one_behind_the_other_end_when_the_client_goes() -> None:
    began, ended = threading.Semaphore(0), threading.Semaphore(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        began.release()
        await _gone(receive)
        ended.release()

    with listening(app, ServerConfig(port=0)) as url:
        with connected(url) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
            assert began.acquire(timeout=PATIENCE)
        assert ended.acquire(timeout=PATIENCE)


def test_a_body_of_a_hundred_megabytes_takes_no_memory(hasty: str) -> None:
    before = _memory()
    piece = b" " * 2**20
    with connected(hasty) as sock:
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (100 * 2**20))
        said = sock.recv(2**16)
        _pour(sock, piece, 100)
    assert said.startswith(b"HTTP/1.1 413 ")
    with connected(hasty) as sock:
        sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        _pour(sock, b"%x\r\n%s\r\n" % (len(piece), piece), 100)
        assert sock.recv(2**16).startswith(b"HTTP/1.1 413 ")
    assert _memory() - before < 32 * 2**20


def _pour(sock: socket.socket, data: bytes, times: int) -> None:
    try:
        for _ in range(times):
            sock.sendall(data)
    except OSError:
        return  # it has heard enough


def _memory() -> int:
    """Most bytes that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_idle_connections_are_no_burden() -> None:
    count = scaled(200, 2000)
    raise_descriptor_limit(2 * count)
    config = ServerConfig(port=0, head_seconds=PATIENCE)
    with listening(_endless, config) as url, ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connected(url))
        sock = stack.enter_context(connected(url))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(16).startswith(b"HTTP/1.1 200 ")
