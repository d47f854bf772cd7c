"""What a route is handed besides the body: the models, and who asks.

By `Depends`, or where text is asked for by the functions themselves: to resolve one dependency
takes FastAPI a tenth of what a short request takes in all. What is for `Depends` waits for nothing
and is async all the same: all else goes through a thread, for each request.
"""

from __future__ import annotations

from fastapi import Request

from samovar.server.caller import Caller
from samovar.server.served import Served


def served_of(request: Request) -> Served:
    """The models."""
    found: Served = request.app.state.served
    return found


def caller_of(request: Request) -> Caller:
    """Who asks."""
    return getattr(request.state, "caller", None) or Caller()


async def served(request: Request) -> Served:
    """The models; for `Depends`."""
    return served_of(request)


async def caller(request: Request) -> Caller:
    """Who asks; for `Depends`."""
    return caller_of(request)
