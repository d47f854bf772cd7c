"""What went wrong, as Ollama says it."""

from __future__ import annotations

import msgspec

from samovar.api.status import status_of
from samovar.api.wire import WireFailure
from samovar.types import Failed


def failure(failed: Failed) -> WireFailure:
    """A failure that came before anything went out."""
    return WireFailure(status_of(failed.code), error_body(failed.message))


def error_body(message: str) -> bytes:
    """An error as a body, or as a line of a stream."""
    return msgspec.json.encode({"error": message})
