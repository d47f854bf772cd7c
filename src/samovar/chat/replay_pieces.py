"""Prompts to ids, piece by piece, each piece once.

A tokenizer looks for control tokens first, so a text that is cut before each of them has the same
ids as the whole. That makes the ids of a conversation grow at its end only, and of a long one only
what is new has to be tokenized.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol

from samovar.chat.literal import Segment
from samovar.chat.specials import Specials

MAX_BYTES = 8 * 2**20
"""Of remembered pieces; about a million tokens."""

_ENTRY_BYTES = 200  # what a piece takes besides its ids, about


class Tokenizer(Protocol):
    """A vocabulary, as far as prompts need it."""

    def ids(self, text: str, *, parse_special: bool, is_first: bool) -> list[int]:
        """The ids of a stretch of a prompt."""

    def begun(self, ids: list[int]) -> list[int]:
        """The ids of a prompt, with what the model expects before them."""

    def spelled(self, ids: Sequence[int], shown: frozenset[int]) -> bytes:
        """The text of ids; of control tokens only of those that are shown. Raises InvalidToken."""

    def controls(self, ids: Iterable[int]) -> list[int]:
        """Those ids that are control tokens."""

    def is_end(self, token: int) -> bool:
        """Whether generation ends with this token."""


class Pieces:
    """The ids of pieces that came before. Thread-safe."""

    def __init__(
        self, tokenizer: Tokenizer, specials: Specials, max_bytes: int = MAX_BYTES
    ) -> None:
        self._tokenizer = tokenizer
        self._specials = specials
        self._max_bytes = max_bytes
        self._known: OrderedDict[bytes, array[int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self.num_tokenized = 0
        """Characters that had to be tokenized so far."""

    def ids(self, segments: Iterable[Segment | Sequence[int]]) -> list[int]:
        """The ids of a prompt; what comes as ids stays as it is."""
        return self._tokenizer.begun(self._ids(segments, is_first=True))

    def ids_behind(self, segments: Iterable[Segment]) -> list[int]:
        """The ids of a stretch of a prompt that is not its beginning."""
        return self._ids(segments, is_first=False)

    def _ids(self, segments: Iterable[Segment | Sequence[int]], *, is_first: bool) -> list[int]:
        tokens: list[int] = []
        for segment in segments:
            if isinstance(segment, Segment):
                for text in self._cut(segment):
                    tokens += self._piece(text, segment.parse_special, is_first)
                    is_first = False
            else:
                tokens += segment
            is_first = False
        return tokens

    def _cut(self, segment: Segment) -> list[str]:
        if not segment.parse_special:
            return [segment.text]
        places = [0, *clean_starts(self._specials, segment.text), len(segment.text)]
        return [segment.text[start:end] for start, end in pairwise(places) if end > start]

    def _piece(self, text: str, parse_special: bool, is_first: bool) -> Sequence[int]:  # noqa: FBT001
        flags = b"%d%d" % (parse_special, is_first)
        key = hashlib.blake2b(text.encode(), digest_size=24, person=flags).digest()
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
                return found
        ids = self._tokenizer.ids(text, parse_special=parse_special, is_first=is_first)
        self._keep(key, array("i", ids), len(text))
        return ids

    def _keep(self, key: bytes, ids: array[int], size: int) -> None:
        with self._lock:
            self.num_tokenized += size
            if key in self._known:
                return
            self._known[key] = ids
            self._bytes += _weight(ids)
            while self._bytes > self._max_bytes:
                self._bytes -= _weight(self._known.popitem(last=False)[1])


def _weight(ids: array[int]) -> int:
    return _ENTRY_BYTES + ids.itemsize * len(ids)


def clean_starts(specials: Specials, text: str) -> list[int]:
    """Where control tokens begin that no other one reaches into."""
    starts: list[int] = []
    reach = 0
    for start, end in sorted(specials.occurrences(text), key=lambda span: (span[0], -span[1])):
        if start >= reach and start:
            starts.append(start)
        reach = max(reach, end)
    return starts
