"""Requests for vectors and scores: computed in slices, between the steps that make text.

    submit ──> read (texts to tokens) ──> waiting ──> slices ──> Embedded or Ranked

A slice is one call of the backend's embedder. It holds texts of all requests that are computed
alike, and while somebody decodes it is no longer than what the promise of `latency` leaves of the
gap between two tokens. A text that is half computed goes first, or its cells would be lost; else
the requests go by priority and by what their tenants had. What goes wrong in company is done again
alone, until it is known whose fault it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from itertools import islice

from samovar.engine.failure import failure
from samovar.engine.fairness import SECONDS_PER_PRIORITY, Tenants
from samovar.engine.latency import FIRST_CHUNK, LEAST_CHUNK, StepCosts
from samovar.engine.passages import Passages, TextRequest
from samovar.engine.sequence import Adapters
from samovar.engine.work import BYTES_OF_TOKEN, Work, size_of, texts_of
from samovar.errors import (
    DeadlineExceeded,
    DecodeTimeout,
    InvalidRequest,
    Overloaded,
    SamovarError,
)
from samovar.native.interface import Backend, Passage
from samovar.types import Choice, Event, Finished

READ_BYTES = 2**15  # of text are tokenized between two steps: some milliseconds
MAX_BYTES = 2**26  # of waiting text, all requests together; its ids are about as much again
_MOST_PASSAGES = 256  # are looked through for those that fit: no call holds more


class Embedding:
    """The requests for vectors and scores of one engine.

    `apply` has the backend compute under a set of adapters from now on. Deterministic: every text
    is computed by itself and in calls of one size, so that company changes no bit.
    """

    def __init__(
        self,
        backend: Backend,
        tenants: Tenants,
        apply: Callable[[Adapters], None],
        max_waiting: int,
        clock: Callable[[], float],
        *,
        is_deterministic: bool,
    ) -> None:
        self._embedder = backend.embedder
        self._texts = Passages(backend)
        self._tenants = tenants
        self._apply = apply
        self._max_waiting = max_waiting
        self._now = clock
        self.costs = StepCosts()
        self._is_deterministic = is_deterministic
        self._all: dict[str, Work] = {}
        self._held = 0
        """Bytes of their texts."""
        self._order = 0
        self._unfinished: Work | None = None
        """Whose first passage is half computed."""
        self._largest = self._embedder.batch_size
        self._num_alone = 0
        """So many passages are computed one at a time, because a call with them failed."""

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._all

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to compute."""
        return not self._all

    def adapters(self) -> set[str]:
        """The names of the adapters that requests need."""
        return {name for work in self._all.values() for name, _ in work.request.adapters}

    # ---- coming and going ---------------------------------------------------------------------

    def submit(self, request: TextRequest) -> None:
        """Take a request in, and read what can be read at once.

        Raises what is wrong with it, and Overloaded when too much is waiting.
        """
        pooling = self._texts.pooling(request)
        texts = texts_of(request)
        self._order += 1
        work = Work(
            request, pooling, self._order, self._now(), deque(texts), sum(map(size_of, texts))
        )
        self._require_room(work)
        self._read_of(work, READ_BYTES)
        self._tenants.enter(request.tenant)
        self._all[request.request_id] = work
        self._held += work.size

    def retry_after(self) -> float:
        """Seconds until what waits is computed, as far as its speed is known."""
        return max(1.0, self.costs.seconds_of(self._held // BYTES_OF_TOKEN, 0, 1))

    def _require_room(self, work: Work) -> None:
        if work.size > MAX_BYTES:
            raise InvalidRequest(
                f"the texts have {work.size} bytes together, and a request holds {MAX_BYTES}; send"
                " several"
            )
        waiting = len(self._all)
        if waiting >= self._max_waiting or self._held + work.size > MAX_BYTES:
            raise Overloaded(
                f"{waiting} requests for embeddings are waiting and no more are taken; try again"
                " later"
            )

    def cancel(self, request_id: str) -> None:
        """End a request with the next step. Unknown ids are ignored."""
        if request_id in self._all:
            self._all[request_id].is_cancelled = True

    def end_what_is_over(self, now: float) -> list[Event]:
        """The ends of what was cancelled or has used up its time."""
        events: list[Event] = []
        for work in list(self._all.values()):
            name, seconds = work.request.request_id, work.request.timeout_seconds
            if work.is_cancelled:
                events.append(Finished(name, (Choice("cancelled", 0),), work.usage(now)))
            elif work.is_late(now):
                late = DeadlineExceeded(f"not finished within {seconds:g} s; it was stopped")
                events.append(failure(name, late))
            else:
                continue
            self._forget(work)
        return events

    def close(self) -> list[Event]:
        """Fail everything."""
        stopped = Overloaded("the engine was stopped; try again")
        return [self._failed(work, stopped) for work in list(self._all.values())]

    def _failed(self, work: Work, error: SamovarError) -> Event:
        self._forget(work)
        return failure(work.request.request_id, error)

    def _forget(self, work: Work) -> None:
        del self._all[work.request.request_id]
        self._held -= work.size
        self._tenants.leave(work.request.tenant)
        if self._unfinished is work:
            self._unfinished = None

    # ---- a slice ------------------------------------------------------------------------------

    def work(self, seconds: float | None) -> list[Event]:
        """Read and compute a slice of what waits; returns what came of it.

        `seconds` is what it may take; None: nobody waits for it.
        """
        started = self._now()
        in_order = sorted(self._all.values(), key=lambda work: self._rank(work, started))
        events = self._read(in_order)
        group = self._group([work for work in in_order if self._is_ready(work)])
        if group:
            now = self._now()
            left = None if seconds is None else seconds - (now - started)
            events += self._compute(group, self._limit(left), now)
        return events

    def _rank(self, work: Work, now: float) -> tuple[float, float, int]:
        """The order of the waiting line of sequences."""
        waited = max(0.0, now - work.submitted)
        priority = work.request.priority + int(waited / SECONDS_PER_PRIORITY)
        return -priority, self._tenants.served(work.request.tenant), work.order

    def _is_ready(self, work: Work) -> bool:
        return not work.unread and work.request.request_id in self._all

    def _group(self, ready: list[Work]) -> list[Work]:
        """The one that is next, and those that may share a call with it."""
        if not ready:
            return []
        first = self._unfinished or ready[0]
        others = [
            work
            for work in ready
            if work is not first
            and work.pooling == first.pooling
            and work.request.adapters == first.request.adapters
        ]
        return [first, *others]

    def _limit(self, seconds: float | None) -> int:
        """Tokens that a slice of so many seconds may have."""
        known = self.costs.prefill_seconds
        if seconds is None or self._is_deterministic:
            return self._largest
        if known is None:
            return min(FIRST_CHUNK, self._largest)
        if seconds >= known * self._largest:
            return self._largest
        return min(self._largest, max(LEAST_CHUNK, int(seconds / known)))

    def _compute(self, group: list[Work], limit: int, now: float) -> list[Event]:
        is_alone = self._is_deterministic or self._num_alone > 0
        whose = list(islice(_passages(group), 1 if is_alone else _MOST_PASSAGES))
        before = [passage.num_computed for _, passage in whose]
        try:
            self._apply(group[0].request.adapters)
            started = self._now()
            count = self._embedder.advance(
                [passage for _, passage in whose], group[0].pooling, limit
            )
        except SamovarError as error:
            return self._interrupted([work for work, _ in whose], limit, error)
        self.costs.observe(0, count, self._now() - started)
        self._num_alone = max(0, self._num_alone - 1)
        # Slowly: what was too slow once cost a whole deadline.
        self._largest = min(self._embedder.batch_size, self._largest + self._largest // 8 + 1)
        return self._account(whose, before, now)

    def _account(
        self, whose: list[tuple[Work, Passage]], before: list[int], now: float
    ) -> list[Event]:
        """After a call: charge for it, remember what is half done, tell what is finished."""
        for (work, passage), count in zip(whose, before, strict=True):
            more = passage.num_computed - count
            if more > 0:
                self._tenants.charge(work.request.tenant, more)
                work.started = now if work.started is None else work.started
        first, passage = whose[0]
        self._unfinished = first if passage.vector is None else None
        finished = [work for work in dict.fromkeys(work for work, _ in whose) if work.is_finished]
        events = [work.result(self._now()) for work in finished]
        for work in finished:
            self._forget(work)
        return events

    def _interrupted(self, works: List[Work], limit: int, error: SamovarError) -> list[Event]:
        """A call failed: with less in it the next one may not."""
        self._unfinished = None
        is_slow = isinstance(error, DecodeTimeout)
        if is_slow and self._embedder.can_cut and limit > LEAST_CHUNK:
            self._largest = max(LEAST_CHUNK, limit // 2)
            return []
        if len(works) > 1:
            self._num_alone = len(works)
            return []
        return [self._failed(works[0], error)]

    # ---- reading ------------------------------------------------------------------------------

    def _read(self, in_order: list[Work]) -> list[Event]:
        """Tokenize some text, of those that are next."""
        events: list[Event] = []
        left = READ_BYTES
        for work in in_order:
            if left <= 0:
                break
            if not work.unread:
                continue
            try:
                left -= self._read_of(work, left)
            except SamovarError as error:
                events.append(self._failed(work, error))
        return events

    def _read_of(self, work: Work, most: int) -> int:
        """Tokenize texts of one request until `most` bytes are done; returns how many were."""
        done = 0
        while work.unread and done < most:
            text = work.unread.popleft()
            done += size_of(text)
            work.passages.append(self._texts.passage(work.request, text))
        if not work.unread:
            longest = max(len(one.tokens) for one in work.passages)
            self._embedder.prepare(work.pooling, longest)
        return done


def _passages(group: list[Work]) -> Iterator[tuple[Work, Passage]]:
    for work in group:
        for passage in work.pending():
            yield work, passage
