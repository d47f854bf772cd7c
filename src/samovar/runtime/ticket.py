"""A request as the runtime keeps it: what was asked, what came out, who waits for more."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from samovar.ipc.requests import Request
from samovar.types import (
    Begun,
    Burst,
    Choice,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    PromptScores,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

_PROOF = 4  # tokens beyond where its worker died: what it had said last may not have arrived
_MORE_PROOF = 4  # times as many, each time that a request was cleared and its worker died again
_MOST_TRIALS = 3
_LEAST_SECONDS = 0.001
SEEDS = 2**64

Sink = Callable[[Burst], bool]
"""Takes what came out. False: whoever gave it wants to go on by itself."""


def with_seed(request: Request) -> Request:
    """The request with a seed: what is taken up again must draw as it did."""
    if isinstance(request, GenerateRequest) and request.sampling.seed is None:
        return replace(request, sampling=replace(request.sampling, seed=secrets.randbits(64)))
    return request


@dataclass(slots=True, eq=False)
class Ticket:
    """One request from when it is taken until its one terminal event."""

    request: Request
    began: float
    on_closed: Callable[[Ticket], None]
    """Called when whoever fetches goes."""
    most_waiting: int | None = None
    """How many events may wait to be fetched; None: as many as come."""
    is_paced: bool = False
    """Whoever fetches need not hear of each event at once (see `pacing`)."""
    generated: list[list[int]] = field(default_factory=list)
    """By choice: the ids that came out."""
    num_scored: int = 0
    """Tokens of the prompt of which the log-probabilities came out, the first one included."""
    blame: float = 0.0
    """Of deaths of workers that had it: 1 makes a suspect, 2 a culprit."""
    died_at: int = 0
    """Tokens that had come out when the last one did."""
    trials: int = 0
    """How often it was a suspect and was cleared."""
    is_sent: bool = False
    """A worker has it."""
    was_sent: bool = False
    """A worker has it or had it: it was not refused."""
    is_cancelled: bool = False
    """Nobody waits for it; the worker that has it was told."""
    is_over: bool = False
    timer: asyncio.TimerHandle | None = None
    """Of its deadline, for when no worker has it."""
    has_begun: bool = False
    """It was told that the prompt is being computed: another worker says so again."""
    fetched_at: float | None = None
    """When something that was generated was fetched last."""
    _unfetched: list[Event] = field(default_factory=list)
    """What came out; it ends with the terminal event."""
    _fetcher: asyncio.Future[None] | None = None
    _sink: Sink | None = None

    def __post_init__(self) -> None:
        if isinstance(self.request, GenerateRequest):
            self.generated = [list(one) for one in self.request.generated]
            self.generated += [[] for _ in range(self.request.choices - len(self.generated))]
            self.num_scored = self.request.num_scored

    @property
    def num_generated(self) -> int:
        """Tokens that came out, of all choices."""
        return sum(map(len, self.generated))

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what killed a worker."""
        return self.blame >= 1 and not self.is_over

    @property
    def is_neglected(self) -> bool:
        """Whether more waits than may."""
        return self.most_waiting is not None and len(self._unfetched) > self.most_waiting

    def suspicion(self) -> tuple[float, int, float]:
        """Of suspects, who is tried first: who was before, then who got least far, the newest."""
        return (self.blame, -self.num_generated, self.began)

    @property
    def can_go_on(self) -> bool:
        """Whether another worker can take it up: not where it leans on what only one had."""
        return not (isinstance(self.request, GenerateRequest) and self.request.continues)

    @property
    def is_done(self) -> bool:
        """Whether it is over and everything was fetched."""
        return self.is_over and not self._unfetched

    def take(self, event: Event) -> bool:
        """Something came out. True: with that it is over, or no suspect any more.

        Whoever fetches is told by `wake`.
        """
        if self.is_over:
            return False
        is_settled = False
        if isinstance(event, (TextDelta, ReasoningDelta, ToolCallDelta)):
            self.generated[event.choice] += event.tokens
            if self.blame and self.num_generated >= self.died_at + self._proof:
                is_settled = self.is_suspect
                self._clear()
        elif isinstance(event, PromptScores):
            self.num_scored = event.start + len(event.logprobs)
        elif isinstance(event, Begun):
            if self.has_begun:
                return False
            self.has_begun = True
        else:
            is_settled = self.is_over = True
        self._unfetched.append(event)
        return is_settled

    def wake(self) -> None:
        """Whoever fetches goes on, or the sink is given it, if there is something."""
        fetcher = self._fetcher
        if not self._unfetched or fetcher is None or fetcher.done():
            return
        sink = self._sink
        if sink is None:
            fetcher.set_result(None)
            return
        try:
            wants_more = sink(self._fetched())
        except Exception as error:  # noqa: BLE001 - whoever gave the sink is to raise it
            fetcher.set_exception(error)
        else:
            if self.is_over or not wants_more:
                fetcher.set_result(None)

    async def fetch(self) -> Burst:
        """What came out since the last time, as soon as that is something. For one caller.

        Nothing follows the terminal event: not to be called when it `is_done`.
        """
        if not self._unfetched:
            self._fetcher = asyncio.get_running_loop().create_future()
            await self._fetcher
        return self._fetched()

    async def push(self, sink: Sink) -> None:
        """Give what comes out to a sink, as it comes, until that says False or nothing follows.

        In place of `fetch`, many times cheaper: no task is woken for what comes. Raises what the
        sink raises.
        """
        self._fetcher = asyncio.get_running_loop().create_future()
        self._sink = sink
        try:
            self.wake()
            await self._fetcher
        finally:
            self._sink = None

    def _fetched(self) -> Burst:
        fetched, self._unfetched = self._unfetched, []
        if not isinstance(fetched[-1], Begun):  # else the first token is still to come
            self.fetched_at = asyncio.get_running_loop().time()
        return fetched

    def close(self) -> None:
        """Nobody fetches any more: what is not over is cancelled."""
        self.on_closed(self)

    @property
    def _proof(self) -> int:
        more: int = _MORE_PROOF ** min(self.trials, _MOST_TRIALS)
        return _PROOF * more

    def _clear(self) -> None:
        """It has got past where its worker died: it was not its fault."""
        self.trials += self.is_suspect
        self.blame = 0.0

    def fail(self, code: str, message: str, *, retryable: bool) -> None:
        """End it."""
        self._end(Failed(self.request.request_id, code, message, retryable))

    def _end(self, event: Event) -> None:
        self.take(event)
        self.wake()

    def end_cancelled(self) -> None:
        """End it as cancelled, where no worker has it that could say so."""
        request = self.request
        if not isinstance(request, GenerateRequest):
            self.fail("cancelled", "the request was cancelled", retryable=False)
            return
        seed = request.sampling.seed or 0
        choices = tuple(Choice("cancelled", (seed + i) % SEEDS) for i in range(request.choices))
        self._end(Finished(request.request_id, choices, Usage(0, self.num_generated)))

    def is_late(self, now: float) -> bool:
        """Whether its time is over."""
        limit = self.request.timeout_seconds
        return limit is not None and now - self.began >= limit

    def again(self, now: float) -> Request:
        """The request for another worker: behind what came out, in the time that is left."""
        request = self.request
        if request.timeout_seconds is not None:
            left = request.timeout_seconds - (now - self.began)
            request = replace(request, timeout_seconds=max(_LEAST_SECONDS, left))
        if isinstance(request, GenerateRequest) and self.num_generated:
            said = tuple(tuple(one) for one in self.generated)
            request = replace(request, generated=said)
        if isinstance(request, GenerateRequest) and self.num_scored:
            request = replace(request, num_scored=self.num_scored)
        return request
