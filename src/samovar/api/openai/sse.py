"""Server-sent events: how chunks of this dialect lie in a stream."""

from __future__ import annotations

import msgspec

from samovar.api.openai.failures import error_body
from samovar.types import Failed

encoded = msgspec.json.Encoder().encode
"""Anything as JSON."""

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def data_of(chunk: msgspec.Struct) -> bytes:
    """A chunk as an event."""
    return b"data: %b\n\n" % encoded(chunk)


def failed_stream(failed: Failed) -> bytes:
    """How a stream ends that cannot go on: its status has gone out already."""
    return data_of(error_body(failed)) + DONE
