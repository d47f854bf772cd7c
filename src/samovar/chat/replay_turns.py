"""The turns that were generated here, by the conversation up to and with them.

Bounded in bytes, those longest unused first to go; in a file as well, if there is one. What is
remembered first under a key stays, so that the same conversation becomes the same ids again.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from samovar.chat.replay_journal import Journal, PinRecord, TurnRecord
from samovar.types import Message, ReplayRefusal

MAX_BYTES = 32 * 2**20
"""Of all turns: some millions of tokens."""

_ENTRY_BYTES = 500  # what a turn takes besides its ids and texts, about
_TOKEN_BYTES = 12  # an id, and its text as it was read
_MOST_OF_A_KEY = 4  # turns that say the same aloud, and were reasoned otherwise
_MAX_PINS = 4096
_MAX_PIN_VALUES = 64  # of one conversation: prompts tell the time a few times
_MAX_PIN_CHARS = 4096  # of its values together: so all pins take a few MiB
_PIN_SECONDS = 86400.0
"""How long the first value of something volatile holds: a new day has a new date."""


@dataclass(slots=True)
class Turn:
    """Ids that were generated, without the one that ended them."""

    ids: array[int]
    tail: str
    """The end of the text before them, from the last message's last word on."""
    read: tuple[bytes, Message] | None = field(default=None, compare=False)
    """What they say, and the key of the form by which that was read."""
    verdict: tuple[bytes, bytes, ReplayRefusal | None] | None = field(default=None, compare=False)
    """Why they could not stand for a text, or None: the key of a form, and the text's digest."""

    @property
    def weight(self) -> int:
        """Bytes that it takes, about."""
        return _ENTRY_BYTES + _TOKEN_BYTES * len(self.ids) + len(self.tail)


class Turns:
    """All of one model. Thread-safe. `clock` gives seconds since 1970."""

    def __init__(
        self,
        namespace: bytes,
        clock: Callable[[], float],
        journal: Journal | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._namespace = namespace
        self._now = clock
        self._journal = journal
        self._max_bytes = max_bytes
        self._turns: OrderedDict[bytes, list[Turn]] = OrderedDict()
        self._pins: OrderedDict[bytes, tuple[tuple[str, ...], float]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        for record in () if journal is None else journal.read():
            if isinstance(record, PinRecord):
                self._pin(record.key, record.values, record.seconds)
            else:
                ids = array("i")
                ids.frombytes(record.ids[: len(record.ids) // ids.itemsize * ids.itemsize])
                self._add(record.key, Turn(ids, record.tail))

    @property
    def num_bytes(self) -> int:
        """What is taken now."""
        return self._bytes

    def __len__(self) -> int:
        return sum(map(len, self._turns.values()))

    def find(self, key: bytes) -> list[Turn]:
        """The turns of a key, the first one first."""
        with self._lock:
            found = self._turns.get(key)
            if found is None:
                return []
            self._turns.move_to_end(key)
            return list(found)

    def add(self, key: bytes, turn: Turn) -> None:
        """Remember a turn, if it is new."""
        with self._lock:
            if self._add(key, turn) and self._journal is not None:
                self._journal.append(
                    TurnRecord(self._namespace, key, turn.tail, turn.ids.tobytes())
                )

    def first_values(self, key: bytes, values: tuple[str, ...]) -> tuple[str, ...]:
        """What values had that are `values` now, when they were first asked for, within a day.

        More of them than a prompt has use for are as they are now.
        """
        if len(values) > _MAX_PIN_VALUES or sum(map(len, values)) > _MAX_PIN_CHARS:
            return values
        with self._lock:
            found = self._pins.get(key)
            now = self._now()
            is_known = found is not None and len(found[0]) == len(values)
            if found is not None and is_known and 0 <= now - found[1] < _PIN_SECONDS:
                return found[0]
            self._pin(key, values, now)
            if self._journal is not None:
                self._journal.append(PinRecord(self._namespace, key, values, now))
            return values

    def close(self) -> None:
        """Have it all in the file. Idempotent."""
        with self._lock:
            if self._journal is not None:
                self._journal.close()

    def _add(self, key: bytes, turn: Turn) -> bool:
        if turn.weight > self._max_bytes:
            return False
        others = self._turns.setdefault(key, [])
        self._turns.move_to_end(key)
        if turn in others or len(others) >= _MOST_OF_A_KEY:
            return False
        others.append(turn)
        self._bytes += turn.weight
        while self._bytes > self._max_bytes:
            _, gone = self._turns.popitem(last=False)
            self._bytes -= sum(one.weight for one in gone)
        return True

    def _pin(self, key: bytes, values: tuple[str, ...], seconds: float) -> None:
        self._pins[key] = (values, seconds)
        self._pins.move_to_end(key)
        if len(self._pins) > _MAX_PINS:
            self._pins.popitem(last=False)
