"""An error as the end of a request."""

from __future__ import annotations

from samovar.errors import RequestError, SamovarError
from samovar.types import Failed


def failure(request_id: str, error: SamovarError, retry_after: float | None = None) -> Failed:
    """An error as the terminal event of a request."""
    retryable = error.retryable and not isinstance(error, RequestError)
    return Failed(request_id, error.code, str(error), retryable, retry_after)
