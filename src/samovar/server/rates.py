"""How much an API key may ask per minute: requests when they come, tokens when they are counted."""

from __future__ import annotations

import time
from collections.abc import Callable

_MINUTE = 60.0


class Bucket:
    """So many units per minute, a minute's worth of them at once. What is owed is waited for."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = per_minute
        self._at = clock()

    @property
    def level(self) -> float:
        """What may be taken now; negative: owed."""
        now = self._clock()
        gained = (now - self._at) * self.per_minute / _MINUTE
        self._level, self._at = min(self.per_minute, self._level + gained), now
        return self._level

    def wait(self, amount: float = 0.0) -> float:
        """Seconds until so much may be taken; 0: now."""
        return max(0.0, amount - self.level) * _MINUTE / self.per_minute

    def take(self, amount: float) -> None:
        """Take so much, and owe what is not there."""
        self._level = self.level - amount


class Account:
    """The limits of one key, and what is left of them."""

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = None if requests_per_minute is None else Bucket(requests_per_minute, clock)
        self._tokens = None if tokens_per_minute is None else Bucket(tokens_per_minute, clock)

    def admit(self) -> float:
        """Take one request, or say in how many seconds there will be room; 0: it was taken.

        How many tokens it takes is known at its end: while some are owed, nothing is let in.
        """
        waits = 0.0 if self._tokens is None else self._tokens.wait(1)
        if self._requests is not None:
            waits = max(waits, self._requests.wait(1))
            if not waits:
                self._requests.take(1)
        return waits

    def spend(self, tokens: int) -> None:
        """A request took so many tokens."""
        if self._tokens is not None:
            self._tokens.take(tokens)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What is left, in the headers that OpenAI's clients read."""
        found = []
        for name, bucket in ((b"requests", self._requests), (b"tokens", self._tokens)):
            if bucket is not None:
                found += [
                    (b"x-ratelimit-limit-" + name, b"%d" % bucket.per_minute),
                    (b"x-ratelimit-remaining-" + name, b"%d" % max(0, bucket.level)),
                ]
        return found
