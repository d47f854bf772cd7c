"""The short way to the body of a response that has begun.

A message of a stream goes through every layer of an application, each of which waits for the next
one, and none of them looks at a body. Connections of this server offer a way past them, as an
extension of ASGI's scope; whoever has none sends messages.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Protocol

Scope = MutableMapping[str, Any]

EXTENSION = "samovar.body"


class BodyWriter(Protocol):
    """Writes into one response."""

    @property
    def is_taken(self) -> bool:
        """Whether it has begun, goes on, and its client takes what is written."""

    def write(self, data: bytes) -> bool:
        """Have something written with all else of this moment, and say whether more is taken.

        What is not taken waits in memory.
        """

    def flush(self) -> None:
        """Write it now: something is to be sent behind it."""


def offer(scope: Scope, writer: BodyWriter) -> None:
    """Put one into a scope."""
    extensions: dict[str, Any] = scope.setdefault("extensions", {})
    extensions[EXTENSION] = writer


def body_writer(scope: Scope) -> BodyWriter | None:
    """The one that was offered."""
    found: BodyWriter | None = scope.get("extensions", {}).get(EXTENSION)
    return found
