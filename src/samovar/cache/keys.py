"""What names a block: everything that decides its bytes. Pure.

The *namespace* is what decides them besides the tokens: the weights, llama.cpp's build and state
version, KV types, RoPE settings, adapters, the salt of whoever may see them. The *key* of a block
is

    SHA-256(namespace digest ‖ key of the block before it ‖ its tokens as little-endian u32)

with 32 zero bytes before the first block, so that a key stands for all tokens from position 0 on.
Blocks end every `block_size` tokens, and where a turn ends; the next block begins where the one
before it ended, so that nothing is stored twice when a conversation goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

Key = bytes
"""32 bytes."""

Adapters = Sequence[tuple[str, float]]
"""(hex fingerprint, scale) of each applied adapter."""

ROOT: Key = bytes(32)
"""What comes before the first block."""

TOKEN_BYTES = 4
FORMAT = 1
"""Version of keys and blocks together: another one is another namespace."""

Field = str | int | float | bool | None | list[list[str | float]]


@dataclass(frozen=True)
class Namespace:
    """What decides the bytes of a block besides its tokens, in readable form.

    Two namespaces are the same if and only if all their fields are.
    """

    fields: Mapping[str, Field] = field(default_factory=dict)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over the fields, in canonical JSON."""
        return hashlib.sha256(self.as_json().encode()).digest()

    def under(self, adapters: Adapters = (), salt: str = "") -> Namespace:
        """The part of it that belongs to a set of adapters and to whoever knows the salt.

        Of a salt, only a digest is written down. Without either it is this namespace itself.
        """
        if not adapters and not salt:
            return self
        fields = dict(self.fields)
        if adapters:
            fields["adapters"] = [[name, float(scale)] for name, scale in adapters]
        if salt:
            fields["salt"] = hashlib.sha256(b"samovar salt\0" + salt.encode()).hexdigest()
        return Namespace(fields)

    def as_json(self) -> str:
        """What stands in the file beside the blocks."""
        return json.dumps({"format": FORMAT, **self.fields}, sort_keys=True, indent=1)


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Ids as they are hashed and stored: little-endian u32, four bytes each."""
    return np.asarray(tokens, dtype="<u4").tobytes()


def unpack_tokens(data: bytes) -> list[int]:
    """The ids of packed tokens."""
    found: list[int] = np.frombuffer(data, "<u4").tolist()
    return found


def block_key(namespace: bytes, parent: Key, tokens: bytes) -> Key:
    """The key of a block of packed tokens behind another one (ROOT: behind none).

    `namespace` is a Namespace's digest.
    """
    return hashlib.sha256(namespace + parent + tokens).digest()
