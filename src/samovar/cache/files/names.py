"""What the name of a block's file says, so that listing a directory reads no file. Pure.

    <key, 64 hex digits>.<parent, 64>.<start>.<number of tokens>.<bytes of logits>.<r or s>

Key, kind and bytes of logits tell two files apart; the rest follows from the key and is there for
whoever lists them. Numbers are decimal, without leading zeros. No text of a prompt is in a name.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from samovar.cache.block import MAX_TOKENS, Head
from samovar.cache.keys import Key

_NUMBER = "(0|[1-9][0-9]{0,9})"
_SHAPE = re.compile(rf"([0-9a-f]{{64}})\.([0-9a-f]{{64}})\.{_NUMBER}\.{_NUMBER}\.{_NUMBER}\.([rs])")
_MAX = 2**32 - 1  # what a head has room for


class Name(NamedTuple):
    """Which block a file is, without its contents. `str(name)` is the name of the file."""

    key: Key
    parent: Key
    start: int
    """The position of its first token."""
    num_tokens: int
    logits_bytes: int
    kind: str
    """`block.ROWS` or `block.STATE`."""

    def __str__(self) -> str:
        return (
            f"{self.key.hex()}.{self.parent.hex()}"
            f".{self.start}.{self.num_tokens}.{self.logits_bytes}.{self.kind}"
        )


def name_of(head: Head) -> Name:
    """The name of the block that has this head."""
    return Name(head.key, head.parent, head.start, head.num_tokens, head.logits_bytes, head.kind)


def parse_name(text: str) -> Name | None:
    """What the name of a file says, or None if it is no block's."""
    found = _SHAPE.fullmatch(text)
    if found is None:
        return None
    key, parent, start, count, logits, kind = found.groups()
    name = Name(
        bytes.fromhex(key), bytes.fromhex(parent), int(start), int(count), int(logits), kind
    )
    if name.num_tokens > MAX_TOKENS or name.start > _MAX or name.logits_bytes > _MAX:
        return None
    return name
