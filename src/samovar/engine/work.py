"""A request for vectors or scores while it is served: its texts, what is done of them, its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from samovar.engine.passages import TextRequest
from samovar.native.interface import Passage
from samovar.types import (
    Embedded,
    EmbeddingText,
    EmbedRequest,
    Event,
    Ranked,
    Timings,
    Usage,
)

BYTES_OF_TOKEN = 4  # of ordinary text, in ordinary vocabularies


@dataclass(slots=True, eq=False)
class Work:
    """One request from its acceptance to its one terminal event."""

    request: TextRequest
    pooling: str
    order: int
    submitted: float
    unread: deque[EmbeddingText]
    size: int
    """Bytes of its texts."""
    passages: list[Passage] = field(default_factory=list)
    num_finished: int = 0
    """Passages, from the first on, that are known to be finished."""
    started: float | None = None
    is_cancelled: bool = False

    def pending(self) -> Iterator[Passage]:
        """The passages that are not finished, in order."""
        while self.num_finished < len(self.passages) and self._is_finished(self.num_finished):
            self.num_finished += 1
        for at in range(self.num_finished, len(self.passages)):
            if not self._is_finished(at):
                yield self.passages[at]

    def _is_finished(self, at: int) -> bool:
        return self.passages[at].vector is not None

    @property
    def is_finished(self) -> bool:
        """Whether everything is read and computed."""
        return not self.unread and next(self.pending(), None) is None

    def is_late(self, now: float) -> bool:
        """Whether it has used up its time."""
        limit = self.request.timeout_seconds
        return limit is not None and now - self.submitted > limit

    def usage(self, now: float) -> Usage:
        """What it took so far."""
        started = now if self.started is None else self.started
        timings = Timings(
            queue_seconds=started - self.submitted, prefill_seconds=max(0.0, now - started)
        )
        return Usage(sum(len(one.tokens) for one in self.passages), 0, timings=timings)

    def result(self, now: float) -> Event:
        """The terminal event of finished work."""
        rows = np.array([one.vector for one in self.passages], np.float32)
        name, usage = self.request.request_id, self.usage(now)
        if not isinstance(self.request, EmbedRequest):
            return Ranked(name, tuple(float(score) for score in rows[:, 0]), usage)
        return Embedded(name, normalized(rows) if self.request.normalizes else rows, usage)


def texts_of(request: TextRequest) -> tuple[EmbeddingText, ...]:
    """What is to become vectors or scores, one each."""
    return request.inputs if isinstance(request, EmbedRequest) else request.documents


def size_of(text: EmbeddingText) -> int:
    """About how many bytes a text has; ids of it count as much as the text would."""
    return len(text) * (1 if isinstance(text, (str, bytes)) else BYTES_OF_TOKEN)


def normalized(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1. One of nothing but zeros has no direction, and stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: np.ndarray = rows / np.where(lengths > 0, lengths, 1)
    return found
