"""Who sent a request: what routes know of them."""

from __future__ import annotations

from dataclasses import dataclass

from samovar.types import DEFAULT_TENANT

SCOPES = ("inference", "admin")
"""`inference`: everything that asks a model. `admin`: the cache, sessions and metrics as well."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of an API key, or anybody where no keys are needed."""

    tenant: str = DEFAULT_TENANT
    """Shares out computing time, and is the salt of the cache."""
    scopes: frozenset[str] = frozenset(SCOPES)
    request_id: str = ""
    """Of the HTTP request: in the answer's headers and in the log."""
