"""A server is there, and says so."""

from __future__ import annotations

import httpx


def test_health(server: str) -> None:
    assert httpx.get(f"{server}/health").json() == {"status": "ok"}
