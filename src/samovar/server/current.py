"""What is known of the request that is being served, for whatever runs on its behalf."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from samovar.server.rates import Account


@dataclass(slots=True)
class Current:
    """One HTTP request."""

    request_id: str
    account: Account | None = None
    """Whose tokens it takes; None: nobody counts."""
    span: Any = None
    """Of its trace, if there is one."""


_current: ContextVar[Current | None] = ContextVar("current", default=None)


def current() -> Current | None:
    """The request that this runs for; None: it runs for none."""
    return _current.get()


def set_current(request: Current) -> None:
    """From now on this task, and those that it starts, run for a request."""
    _current.set(request)
