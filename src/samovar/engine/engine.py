"""The engine: requests in, events out, one step at a time.

    submit ──> waiting ──> step(): place or restore, schedule, decode call, account ──> events

One thread owns it, and the backend under it. Every request ends in exactly one terminal event,
whatever happens to the others: a refused or failed call is taken apart until it is known which
sequence cannot be computed, and that one alone fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from samovar.chat.turn import PLAIN, TurnForm
from samovar.engine.adapters import Adapters
from samovar.engine.answering import Answering
from samovar.engine.batch import Batch
from samovar.engine.caching import Caching
from samovar.engine.cells import CellLedger
from samovar.engine.embedding import Embedding
from samovar.engine.failure import failure
from samovar.engine.intake import Intake, prefix_of
from samovar.engine.latency import StepCosts
from samovar.engine.packing import Packing
from samovar.engine.placing import Placing
from samovar.engine.scheduler import Limits, Scheduler
from samovar.engine.scopes import Cache
from samovar.engine.seats import Cuts, Seats
from samovar.engine.sequence import Sequence
from samovar.engine.sessions import Sessions
from samovar.engine.step import Step
from samovar.engine.verifying import Verifying
from samovar.errors import (
    InvalidRequest,
    Overloaded,
    SamovarError,
    SessionReset,
)
from samovar.native.interface import Backend, RowFailed, Sampled, StateKind
from samovar.types import EmbedRequest, Event, GenerateRequest, RankRequest, VerifyRequest

Request = GenerateRequest | VerifyRequest | EmbedRequest | RankRequest

_LOGITS = 2**22  # of a step, for log-probabilities of prompts: 16 MiB, in a buffer that stays
_MOST_SCORED = 256  # tokens of a step: what is told of them is one frame to the server
MAX_WAITING = 256  # requests: at a second each, those at the end would wait longer than anyone does


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine serves."""

    max_waiting: int = MAX_WAITING
    """Requests in the queue; one more is refused at once, with an estimate of when to try again."""
    is_deterministic: bool = False
    """The same request gives the same text, bit by bit, whatever else runs: prompts are cut by a
    fixed grid and computed alone, and a decoded row never is without a neighbour. Slower."""


class Engine:
    """Serves requests on one backend. Not for several threads.

    `clock` gives seconds; it need not be the system's. `cache` stays its owner's, who closes it
    after the engine.
    """

    def __init__(
        self,
        backend: Backend,
        options: EngineOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
        cache: Cache | None = None,
    ) -> None:
        self.backend = backend
        self.options = options or EngineOptions()
        if self.options.is_deterministic and backend.num_sequences < 2:
            raise InvalidRequest(
                "a deterministic engine needs a second sequence as a neighbour; load the model with"
                " num_sequences of 2 or more"
            )
        self.costs = StepCosts()
        is_deterministic = self.options.is_deterministic
        self.scheduler = Scheduler(
            Limits(backend.batch_size, _room(backend), is_deterministic, _most_scored(backend)),
            _seats(backend, is_deterministic=is_deterministic),
            self.costs,
        )
        self._now = clock
        self.sessions = Sessions(self.scheduler)
        self._adapters = Adapters()
        self._intake = Intake(
            backend, self.scheduler, self.sessions, self._adapters, self.options.max_waiting
        )
        self._placing = Placing(backend, self.scheduler, self._adapters)
        self._caching = Caching(
            backend, self.scheduler, self._placing, self._adapters, clock, cache
        )
        self._batch = Batch(backend, self.scheduler, self._before_preempt)
        self._answering = Answering(
            self.scheduler, self.sessions, self._caching, Verifying(backend), clock
        )
        self._packing = Packing(backend, self.scheduler, clock)
        self._embedding = Embedding(
            backend,
            self.scheduler.tenants,
            self._placing.apply_adapters,
            self.options.max_waiting,
            clock,
            is_deterministic=is_deterministic,
        )

    # ---- requests -----------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until somebody submits."""
        return self._answering.is_idle and self._embedding.is_idle

    def prepare(self, request: GenerateRequest) -> None:
        """Do beforehand what takes long about a request; from any thread, before `submit`.

        Compiles its grammar, which would otherwise hold up everyone's next step. Raises
        GrammarRejected, Overloaded and OperationUnsupported, which `submit` would report as well.
        """
        if request.sampling.grammar is not None:
            self.backend.compile_grammar(request.sampling.grammar)

    def tokenized(self, request: GenerateRequest) -> GenerateRequest:
        """The request with the ids of its text; from any thread, before `submit`.

        Tokenizing a long text would hold up everyone's next step. Raises what is wrong with the
        text, which `submit` would report as well.
        """
        if isinstance(request.prompt, tuple):
            return request
        tokens = self._intake.tokenize(request)
        return replace(request, prompt=tuple(tokens)) if tokens else request

    def submit(self, request: Request, form: TurnForm = PLAIN) -> None:
        """Take a request in. What is wrong with it comes back as its Failed event.

        What is generated is told by kind as `form` says.

        Raises InvalidRequest only for an id that is in use, because no event could tell the two
        apart.
        """
        if request.request_id in self._answering.requests or request.request_id in self._embedding:
            raise InvalidRequest("another request with this id is not finished yet")
        now = self._now()
        try:
            if isinstance(request, (EmbedRequest, RankRequest)):
                self._adapters.require(request.adapters)
                self._embedding.submit(request)
            elif isinstance(request, VerifyRequest):
                prefix = prefix_of(request)
                self._answering.begin(self._intake.accept(prefix, now, request.candidates), now)
            else:
                self._answering.begin(self._intake.accept(request, now, form=form), now)
        except SamovarError as error:
            retry_after = self._retry_after(request, error)
            self._answering.events.append(failure(request.request_id, error, retry_after))

    def cancel(self, request_id: str) -> None:
        """End a request with the next step, wherever it is. Unknown ids are ignored."""
        running = self._answering.requests.get(request_id)
        if running is not None:
            running.is_cancelled = True
        self._embedding.cancel(request_id)

    def reset_session(self, name: str) -> None:
        """Forget a session, and fail the request that runs on it. Unknown ones are ignored."""
        for running in list(self._answering.requests.values()):
            if running.request.session == name:
                error = SessionReset("the session was reset; send the prompt again")
                self._answering.fail(running, error)
        if name in self.sessions:
            self.sessions.end(name)

    def load_adapter(self, name: str, path: str) -> None:
        """Make a LoRA file known to requests under a name.

        Raises ModelNotFound, AdapterRejected, and InvalidRequest for a name that is in use.
        """
        self._adapters.load(self.backend, name, path)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises InvalidRequest if it is unknown, or a request needs it."""
        if name not in self._adapters:
            raise InvalidRequest(f"no adapter named {name} is loaded")
        used = {used for one in self._sequences() for used, _ in one.adapters}
        if name in used | self._embedding.adapters():
            raise InvalidRequest(f"requests use the adapter {name}; unload it when they are done")
        self._placing.forget_adapter(name)
        self.backend.unload_adapter(self._adapters.pop(name))

    def adapters(self) -> list[str]:
        """The names of the adapters that are loaded."""
        return sorted(self._adapters)

    def applied(self, adapters: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        """Adapters as the cache knows them: fingerprints and scales. Raises InvalidRequest."""
        self._adapters.require(adapters)
        return tuple((self._adapters[name].fingerprint.hex(), scale) for name, scale in adapters)

    def _retry_after(self, request: Request, error: SamovarError) -> float | None:
        """Until the work that is known of is done, as far as its speed is known."""
        if not isinstance(error, Overloaded):
            return None
        if isinstance(request, (EmbedRequest, RankRequest)):
            return self._embedding.retry_after()
        return self._intake.retry_after(self._sequences())

    def _sequences(self) -> list[Sequence]:
        return [one for running in self._answering.requests.values() for one in running.sequences]

    # ---- the step -----------------------------------------------------------------------------

    def step(self) -> list[Event]:
        """Do one step of the work there is; returns what came of it."""
        now = self._now()
        self._answering.events += self._embedding.end_what_is_over(now)
        self._answering.end_what_is_over(now)
        self._admit(now)
        self._take_restored()
        embeds = not self._embedding.is_idle
        self.costs.shares = 2 if embeds else 1
        started = self._now()
        step = self.scheduler.schedule()
        if step.rows:
            self._run(step)
        elif not embeds and not self._answering.events:
            self._caching.wait()
        if embeds:
            self._answering.events += self._embedding.work(self._spare(self._now() - started))
        return self._answering.told()

    def run(self) -> list[Event]:
        """Step until nothing is left to do; returns every event."""
        events = self.step()
        while not self.is_idle:
            events += self.step()
        return events

    def _spare(self, spent: float) -> float | None:
        """Seconds that are left for other work until the next step; None: nobody waits for it."""
        going = [one for one in self.scheduler.running if one.num_remaining]
        promised = sum(one.clock.first_token is not None for one in going)
        if not promised:
            return None
        turns = len({one.adapters for one in going})
        return self.costs.planned(promised, turns) - spent

    def _admit(self, now: float) -> None:
        while (placement := self.scheduler.admit(now)) is not None:
            if not self._caching.begin(placement):
                self._placing.carry_out(placement, now)
            self._answering.admit(placement.sequence)
        self._placing.empty()
        self._packing.pack()

    def _run(self, step: Step) -> None:
        self._placing.apply_adapters(step.adapters)
        started, scored = self._now(), step.num_scored_tokens
        outcome = self._batch.compute(step)
        ended = self._now()
        if outcome.is_whole:
            decode = step.num_decode_rows
            prefill = step.num_tokens - decode - scored
            self.costs.observe(decode, prefill, ended - started, scored)
        self._answering.tell_scores(outcome.scores)
        for broken in outcome.broken:
            self._answering.break_off(broken)
        for sequence, result in outcome.results:
            if not isinstance(result, RowFailed):  # or what is no numbers would come back
                self._caching.after_step(sequence)
            self._answering.take(sequence, result, ended)
        self._placing.empty()

    def _take_restored(self) -> None:
        """Blocks have come. Where nothing is left to compute, what follows was stored as well."""
        for sequence in self._caching.poll():
            self._answering.tell_begun()
            result = None
            if sequence.samples:
                result = self._sampled(sequence)
            self._answering.take(sequence, result, self._now())
        self._answering.tell_begun()
        self._placing.empty()

    def _sampled(self, sequence: Sequence) -> Sampled | RowFailed:
        """The next token of a sequence whose logits are there."""
        assert sequence.seq_id is not None
        assert sequence.sampler is not None
        try:
            sampled = self.backend.sample(sequence.seq_id, sequence.sampler)
            sequence.sampler.accept(sampled.token)
        except SamovarError as error:
            return RowFailed(error)
        return sampled

    def _before_preempt(self, sequence: Sequence) -> None:
        self._caching.save(sequence, "evict")
        self._caching.expect(sequence)

    def close(self) -> list[Event]:
        """Fail what is not finished and free the samplers; the backend stays its owner's."""
        for sequence in self.scheduler.running:
            self._caching.save(sequence, "shutdown")
        for running in list(self._answering.requests.values()):
            self._answering.fail(running, Overloaded("the engine was stopped; try again"))
        self._answering.events += self._embedding.close()
        return self._answering.told()


def _room(backend: Backend) -> int:
    """Tokens that one sequence can come to."""
    cells = backend.num_cells
    return backend.context_length if cells is None else min(cells, backend.context_length)


def _most_scored(backend: Backend) -> int:
    return max(1, min(_MOST_SCORED, _LOGITS // backend.vocabulary_size))


def _seats(backend: Backend, *, is_deterministic: bool) -> Seats:
    is_divisible = backend.state_kind is StateKind.DIVISIBLE
    cuts = Cuts(is_divisible, backend.batch_size if is_deterministic else 1)
    cells = backend.num_cells
    ledger = None if cells is None else CellLedger(cells, backend.num_sequences)
    return Seats(backend.num_sequences, cuts, ledger)
