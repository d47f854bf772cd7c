"""Bytes of tokens to text that never ends in half a character."""

from __future__ import annotations

import codecs


class Detokenizer:
    """Holds back the bytes of a character until all of them are there.

    What is no UTF-8 becomes U+FFFD, as `bytes.decode("utf-8", "replace")` would have it over the
    whole: the text does not depend on how the bytes came in pieces.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, piece: bytes) -> str:
        """The text that is complete with these bytes."""
        data = self._held + piece
        text, length = codecs.utf_8_decode(data, "replace")
        self._held = data[length:]
        return text

    def flush(self) -> str:
        """What is left: U+FFFD for a character that never was completed."""
        rest, self._held = self._held, b""
        return rest.decode("utf-8", "replace")
