"""A server is there, and says so."""

from __future__ import annotations

import httpx

from tests.server.serving import PATIENCE


def test_health(server: str) -> None:
    assert httpx.get(f"{server}/health", timeout=PATIENCE).json() == {"status": "ok"}


def test_whoever_only_looks_whether_it_is_there(server: str) -> None:
    for path in ("/health", "/ready", "/", "/api/version"):
        response = httpx.head(server + path)
        assert (response.status_code, response.content) == (200, b""), path
