"""Signatures of thinking: what proves, when it comes back, that a model here wrote it.

An HMAC over the text. A text without a valid one is not taken for a model's reasoning.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

KEY_BYTES = 32  # as long as the digest: longer ones add nothing

_VERSION = b"samovar1"  # of what is signed, and told apart from what others sign


class Signature:
    """The signature of one text, which may come in pieces."""

    def __init__(self, key: bytes) -> None:
        self._digest = hmac.new(key, _VERSION, hashlib.sha256)

    def feed(self, text: str) -> None:
        """More of the text."""
        self._digest.update(text.encode("utf-8", "replace"))

    def text(self) -> str:
        """The signature of what was fed: base64."""
        return base64.b64encode(_VERSION + self._digest.digest()).decode()


class Signer:
    """Signs with a key, and knows what it signed."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def begin(self) -> Signature:
        """The signature of a text that is yet to come."""
        return Signature(self._key)

    def sign(self, text: str) -> str:
        """The signature of a text."""
        signature = self.begin()
        signature.feed(text)
        return signature.text()

    def is_ours(self, text: str, signature: str) -> bool:
        """Whether exactly this text was signed with this key."""
        given = signature.encode("utf-8", "replace")
        return hmac.compare_digest(self.sign(text).encode(), given)
