"""Engines to try: on the weightless backend, under a clock of ours, checked after every step.

`Trial` drives an engine and finds out after each step whether the cells hold what the sequences
say, whether every sequence is in one place, and whether the events keep their order. `expected`
says what a request must answer, from a backend that nobody else uses and without an engine.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from samovar.engine.engine import Engine, EngineOptions
from samovar.engine.scopes import Cache
from samovar.engine.sequence import Adapters, Phase
from samovar.engine.sequence import Sequence as Choice
from samovar.errors import NativeError
from samovar.native.interface import Aborted, Backend, NoRoom, Row, StateKind, Stepped
from samovar.native.weightless import BOS, EOS, WeightlessBackend, WeightlessSampler
from samovar.types import (
    Begun,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    PromptScores,
    SamplingParams,
    TextDelta,
    TokenLogprobs,
)
from tests.engine.cached import check_cache, check_the_end_of

MOST_STEPS = 5000
"""More than any test here needs: an engine that has not finished by then never will."""

KINDS = [kind for kind in StateKind if kind is not StateKind.NONE]

MODES = ("adaptive", "deterministic")

Fault = str
"""What a decode call shall come to: no_room, interrupted, late, lost, lost_all or error."""


# ---- requests -----------------------------------------------------------------------------------


def block(which: int, length: int) -> tuple[int, ...]:
    """Tokens that are the same for the same `which`, and differ early for others."""
    return tuple((which * 61 + 7 * i * (which + 1)) % 250 for i in range(length))


def request(
    name: str = "a",
    prompt: Sequence[int] | str = "hello",
    *,
    max_tokens: int | None = 8,
    temperature: float = 0.0,
    seed: int | None = 0,
    **more: Any,  # noqa: ANN401 - the other fields of a request
) -> GenerateRequest:
    """A small request."""
    sampling = more.pop("sampling", None) or SamplingParams(temperature=temperature, seed=seed)
    whole = prompt if isinstance(prompt, (str, bytes)) else tuple(prompt)
    return GenerateRequest(name, whole, sampling=sampling, max_tokens=max_tokens, **more)


# ---- what must come of them ---------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """The answer of one choice."""

    tokens: tuple[int, ...]
    text: str
    reason: str
    stop: str | int | None = None


@dataclass(frozen=True)
class Model:
    """What decides an answer besides the request."""

    room: int = 512
    end_bias: float = 0.0


def expected(
    asked: GenerateRequest, model: Model, choice: int = 0, before: Sequence[int] = ()
) -> Expected:
    """What a choice of a request must say behind the tokens of its session."""
    prompt = asked.prompt
    if not isinstance(prompt, tuple):
        backend = WeightlessBackend()
        prompt = tuple(backend.tokenize(prompt, add_special=not asked.continues))
    whole = (*before, *prompt) if asked.continues else prompt
    most = model.room - len(whole)
    if asked.max_tokens is not None:
        most = min(most, asked.max_tokens)
    seed = ((asked.sampling.seed or 0) + choice) % 2**64
    temperature = asked.sampling.temperature
    tokens = _continuation(
        whole, most, temperature, 0 if temperature <= 0 else seed, asked.adapters, model.end_bias
    )
    return cut(tokens, asked)


def cut(tokens: Sequence[int], asked: GenerateRequest) -> Expected:
    """Where a request's stops end these tokens, and what has been said by then."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""
    for count, token in enumerate(tokens, 1):
        if token == EOS or token in asked.stop_tokens:
            stop = token if token in asked.stop_tokens else None
            text, _ = _spell(text, decoder.decode(b"", final=True), asked.stop)
            return Expected(tuple(tokens[:count]), text, "stop", stop)
        piece = bytes([token]) if token < BOS else b""
        text, found = _spell(text, decoder.decode(piece), asked.stop)
        if found is not None:
            return Expected(tuple(tokens[:count]), text, "stop", found)
    text, _ = _spell(text, decoder.decode(b"", final=True), asked.stop)
    return Expected(tuple(tokens), text, "length")


def _spell(text: str, more: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """Letter by letter, until a stop string is there: the text without it, and which it was."""
    for letter in more:
        text += letter
        ended = [stop for stop in stops if text.endswith(stop)]
        if ended:
            stop = max(ended, key=len)
            return text[: -len(stop)], stop
    return text, None


@lru_cache(maxsize=4096)
def _continuation(
    prompt: tuple[int, ...],
    most: int,
    temperature: float,
    seed: int,
    adapters: Adapters,
    end_bias: float,
) -> tuple[int, ...]:
    """What the model says behind a prompt, as far as it goes or `most` tokens."""
    backend = WeightlessBackend(
        context_length=len(prompt) + most + 1, num_sequences=1, end_bias=end_bias
    )
    backend.apply_adapters([(backend.load_adapter(path), scale) for path, scale in adapters])
    backend.configure_sampler(SamplingParams(temperature=temperature, seed=seed))
    backend.prefill(prompt)
    found: list[int] = []
    while len(found) < most:
        sampled = backend.decode_one()
        found.append(sampled.token)
        if sampled.is_eog:
            break
    return tuple(found)


# ---- what was seen ------------------------------------------------------------------------------


@dataclass
class Answer:
    """What a client saw of one request."""

    deltas: list[TextDelta] = field(default_factory=list)
    scores: list[TokenLogprobs] = field(default_factory=list)
    """Of the prompt, from its second token on."""
    begun: Begun | None = None
    end: Event | None = None

    def text(self, choice: int = 0) -> str:
        """All text of a choice."""
        return "".join(delta.text for delta in self.deltas if delta.choice == choice)

    def tokens(self, choice: int = 0) -> tuple[int, ...]:
        """All tokens of a choice."""
        return tuple(t for delta in self.deltas if delta.choice == choice for t in delta.tokens)

    @property
    def finished(self) -> Finished:
        """The end of a request that went well."""
        assert isinstance(self.end, Finished), self.end
        return self.end

    @property
    def failed(self) -> Failed:
        """The end of one that did not."""
        assert isinstance(self.end, Failed), self.end
        return self.end

    def said(self, choice: int = 0) -> Expected:
        """A choice in the form of what is expected of it."""
        end = self.finished.choices[choice]
        return Expected(self.tokens(choice), self.text(choice), end.reason, end.stop)


class Clock:
    """Seconds that pass when we say so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


Cost = Callable[[Sequence[Row], Any], float]
"""Seconds that a decode call of these rows takes."""


class Trial:
    """An engine, step by step."""

    def __init__(
        self,
        backend: Backend | None = None,
        options: EngineOptions | None = None,
        cost: Cost = lambda rows, backend: 0.01,  # noqa: ARG005
        cache: Cache | None = None,
    ) -> None:
        self.backend: Any = backend or WeightlessBackend()
        self.clock = Clock()
        self.cache = cache
        self.engine = Engine(self.backend, options, self.clock, cache)
        self.is_deterministic = bool(options and options.is_deterministic)
        self.answers: dict[str, Answer] = {}
        self.requests: dict[str, GenerateRequest] = {}
        self.calls: list[list[Row]] = []
        """The rows of every decode call."""
        self.faults: deque[Fault | None] = deque()
        """What the next decode calls come to; None: they go well."""
        self.excused: set[str] = set()
        """Requests whose own row, alone in a decode call, was made to fail."""
        self.has_bad_files = False
        """Whether somebody harms the files of the cache."""
        self.num_steps = 0
        self._known: set[Choice] = set()
        """Sequences that were seen and have not finished."""
        self._cost = cost
        self._compute = self.backend.step
        self.backend.step = self._step

    # ---- what a client does -------------------------------------------------------------------

    def submit(self, *requests: GenerateRequest) -> None:
        """Hand requests in."""
        for one in requests:
            self.answers[one.request_id] = Answer()
            self.requests[one.request_id] = one
            self.engine.submit(one)
            self._known.update(self.engine.scheduler.waiting)

    def cancel(self, name: str) -> None:
        """Cancel a request."""
        self.engine.cancel(name)

    def step(self, count: int = 1) -> None:
        """Some steps, each followed by all checks."""
        for _ in range(count):
            self.num_steps += 1
            self._hear(self.engine.step())
            self.check()

    def finish(self, most: int = MOST_STEPS) -> None:
        """Step until nothing is left to do, and look at what is left then."""
        self.until(lambda: self.engine.is_idle, most)
        self.step()
        self.check_the_end()

    def until(self, condition: Callable[[], bool], most: int = MOST_STEPS) -> int:
        """Step until something is so; returns how many steps that took."""
        for count in range(most):
            if condition():
                return count
            self.step()
        raise AssertionError(f"not so after {most} steps: {self.describe()}")

    def has_ended(self, name: str) -> bool:
        """Whether a request has its terminal event."""
        return self.answers[name].end is not None

    def serve(self, *requests: GenerateRequest) -> list[Answer]:
        """Hand requests in, finish, and return their answers."""
        self.submit(*requests)
        self.finish()
        return [self.answers[one.request_id] for one in requests]

    # ---- between the engine and the backend ---------------------------------------------------

    def _step(self, rows: Sequence[Row]) -> Stepped | NoRoom | Aborted:
        ids = [row.seq_id for row in rows]
        assert ids == sorted(set(ids)), "rows are not in ascending order"
        assert sum(len(row.tokens) for row in rows) <= self.backend.batch_size
        bridged = [row for row in rows if row.sampler is None and len(row.tokens) == 1]
        holders = [self.engine.scheduler.seats[r.seq_id].holder for r in rows if r not in bridged]
        assert len({one.adapters for one in holders if one is not None}) <= 1, "mixed adapters"
        self.calls.append(list(rows))
        fault = self.faults.popleft() if self.faults else None
        if fault is not None:
            self._excuse(rows)
            assert isinstance(self.backend, WeightlessBackend)
            self.backend.fail_next(_outcome(fault, rows))
        self.clock.advance(self._cost(rows, self.backend))
        return self._compute(rows)

    def _excuse(self, rows: Sequence[Row]) -> None:
        """Note whose row fails alone. A row that bridges a gap is nobody's."""
        own = rows
        if self.is_deterministic and len(rows) > 1:
            own = [row for row in rows if row.sampler is not None or len(row.tokens) > 1] or rows
        if len(own) > 1 and not (self.is_deterministic and len(own) == len(rows) == 2):
            return
        for row in own:
            holder = self.engine.scheduler.seats[row.seq_id].holder
            if holder is not None:
                self.excused.add(holder.request_id)

    def _hear(self, events: Iterable[Event]) -> None:
        for event in events:
            answer = self.answers[event.request_id]
            assert answer.end is None, "an event after the end"
            if isinstance(event, Begun):
                assert answer.begun is None, "it begins twice"
                assert not answer.scores, "it begins behind scores"
                assert not any(one.choice == 0 for one in answer.deltas), "it begins too late"
                answer.begun = event
            elif isinstance(event, TextDelta):
                assert event.text or event.tokens, "an empty delta"
                answer.deltas.append(event)
            elif isinstance(event, PromptScores):
                before = max(1, self.requests[event.request_id].num_scored)
                assert event.start == before + len(answer.scores), "scores twice, or a gap"
                assert not answer.deltas or self.requests[event.request_id].choices > 1
                answer.scores += event.logprobs
            else:
                answer.end = event
                self._check_begun(answer)

    def _check_begun(self, answer: Answer) -> None:
        """What it began with is what it ends with, and without it nothing was said."""
        begun, end = answer.begun, answer.end
        if begun is None:
            assert not answer.deltas or self.requests[answer.deltas[0].request_id].generated
            assert not answer.scores
            was_waiting = not isinstance(end, Finished) or all(
                one.reason == "cancelled" for one in end.choices
            )
            assert was_waiting or self.requests[end.request_id].generated, "it never began"
        elif isinstance(end, Finished):
            usage = end.usage
            told = (begun.prompt_tokens, begun.cached, begun.divergence)
            assert told == (usage.prompt_tokens, usage.cached, usage.divergence)

    # ---- what must be so after every step -----------------------------------------------------

    def check(self) -> None:
        """Cells, places, counts."""
        scheduler = self.engine.scheduler
        waiting, running, seated = set(scheduler.waiting), scheduler.running, scheduler.seated
        assert len(seated) == len(set(seated)), "a sequence has two seats"
        assert not waiting & set(seated), "a sequence is in two places"
        self._known.update(waiting, seated)
        for one in self._known:
            self._check_sequence(one, is_waiting=one in waiting, is_running=one in running)
            assert (one.phase is Phase.RESTORING) == (one in seated and one not in running)
        self._known = {one for one in self._known if one.phase is not Phase.FINISHED}
        for seat in scheduler.seats:
            held = self.backend.tokens(seat.seq_id)
            assert held == seat.tokens, f"the cells of {seat.seq_id} are not its tokens"
            assert len(held) == seat.num_cells
            if seat.holder is not None:
                assert seat.holder.seq_id == seat.seq_id
        assert not scheduler.seats.emptied, "cells were given up and not removed"
        self._check_ledger()
        if self.cache is not None:
            check_cache(self.engine, self.cache)

    def _check_sequence(self, one: Choice, *, is_waiting: bool, is_running: bool) -> None:
        assert (one.phase is Phase.WAITING) == is_waiting
        assert (one.phase is Phase.RUNNING) == is_running
        assert one.num_computed <= one.num_tokens <= one.limit
        assert one.phase in (Phase.RUNNING, Phase.FINISHED) or one.num_computed == 0
        end = self.answers[one.request_id].end
        assert end is None or one.phase is Phase.FINISHED, "it goes on after its end"
        if isinstance(one.sampler, WeightlessSampler) and one.phase is not Phase.FINISHED:
            assert one.sampler.accepted == one.tokens[one.num_prompt :], (
                "the sampler was told of other tokens than the sequence has"
            )

    def _check_ledger(self) -> None:
        ledger = self.engine.scheduler.seats.ledger
        if ledger is None:
            return
        reserved = 0
        for seat in self.engine.scheduler.seats:
            if seat.holder is not None and seat.holder.phase is Phase.RESTORING:
                assert ledger.own(seat.seq_id) == ledger.length(seat.seq_id) > seat.num_cells
                reserved += ledger.length(seat.seq_id)
            else:
                assert ledger.length(seat.seq_id) == seat.num_cells
        if isinstance(self.backend, WeightlessBackend):  # llama.cpp does not tell
            used = self.num_cells_used() + reserved
            assert ledger.num_used == used, "the ledger counts otherwise"

    def num_cells_used(self) -> int:
        """Cells of the pool that the backend counts as used."""
        return self.backend._num_used()  # noqa: SLF001 - the truth to compare the ledger with

    def check_the_end(self) -> None:
        """Nothing is left but answers, and what sessions hold."""
        scheduler = self.engine.scheduler
        assert self.engine.is_idle
        assert not len(scheduler.waiting)
        assert not scheduler.seated
        assert not scheduler.schedule().rows
        assert not self._known, "a sequence did not finish"
        assert all(answer.end is not None for answer in self.answers.values())
        if scheduler.seats.is_pool:
            kept = {seat.seq_id for seat in scheduler.seats if seat.session is not None}
            assert all(not seat.num_cells for seat in scheduler.seats if seat.seq_id not in kept)
        if self.cache is not None:
            check_the_end_of(self.cache.store, has_faults=self.has_bad_files)

    def describe(self) -> str:
        """Where everybody is, for the message of a failed test."""
        scheduler = self.engine.scheduler
        sat = [
            (one.request_id, one.choice, one.seq_id, one.num_computed, one.num_tokens)
            for one in scheduler.running
        ]
        return f"running {sat}, waiting {[one.request_id for one in scheduler.waiting]}"


def _outcome(fault: Fault, rows: Sequence[Row]) -> NoRoom | Aborted | Exception:
    ids = tuple(row.seq_id for row in rows)
    outcomes: dict[str, NoRoom | Aborted | Exception] = {
        "no_room": NoRoom(),
        "interrupted": Aborted(),
        "late": Aborted(timed_out=True),
        "lost": Aborted(timed_out=True, lost=ids[-1:]),
        "lost_all": Aborted(lost=ids),
        "error": NativeError("llama_decode failed with code -3; it was made to"),
    }
    return outcomes[fault]


FAULTS = ("no_room", "interrupted", "late", "lost", "lost_all", "error")
