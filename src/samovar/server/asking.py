"""What a route is handed besides the body: the models, and who asks. For `Depends`.

What waits for nothing is async all the same: all else goes through a thread, for each request.
"""

from __future__ import annotations

from fastapi import Request

from samovar.server.caller import Caller
from samovar.server.served import Served


async def served(request: Request) -> Served:
    """The models; for `Depends`."""
    found: Served = request.app.state.served
    return found


async def caller(request: Request) -> Caller:
    """Who asks; for `Depends`."""
    return getattr(request.state, "caller", None) or Caller()
