"""Takes requests in: what can be wrong with one is found here, before it is scheduled."""

from __future__ import annotations

import secrets
from collections.abc import Sequence as List
from functools import partial

from samovar.chat.turn import PLAIN, TurnForm
from samovar.engine.adapters import Adapters
from samovar.engine.output import Ending, Output
from samovar.engine.prompts import Prompts
from samovar.engine.request import Running
from samovar.engine.scheduler import Scheduler
from samovar.engine.sequence import Clock, Sequence
from samovar.engine.sessions import Sessions
from samovar.errors import InvalidRequest, Overloaded
from samovar.native.interface import Backend
from samovar.types import GenerateRequest, VerifyRequest


class Intake:
    """Makes sequences of requests and puts them into the waiting line."""

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler,
        sessions: Sessions,
        adapters: Adapters,
        max_waiting: int,
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._sessions = sessions
        self._adapters = adapters
        self._max_waiting = max_waiting
        self._prompts = Prompts(backend)
        self._order = 0

    def accept(
        self,
        request: GenerateRequest,
        now: float,
        candidates: tuple[int, ...] = (),
        form: TurnForm = PLAIN,
    ) -> Running:
        """A request as it is served from now on; choices that have ended before are over.

        Raises InvalidRequest, InvalidToken, ContextOverflow, GrammarRejected, Overloaded and what
        sessions raise; nothing has changed then.
        """
        self._require_room_in_the_queue(request)
        self._adapters.require(request.adapters)
        room = self._scheduler.limits.context_length
        tokens = self._sessions.prompt(request, self._prompts.tokens(request, room))
        self._prompts.require_fits(request, len(tokens) + len(candidates), room)
        self._prompts.check(candidates)
        if request.num_scored > len(tokens):
            raise InvalidRequest("num_scored says more tokens than the prompt has")
        for said in request.generated:
            self._prompts.check(said)
            if len(tokens) + len(said) > room:
                raise InvalidRequest("more was generated than a sequence has room for")
        seed = request.sampling.seed
        running = Running(
            request,
            len(tokens),
            secrets.randbits(64) if seed is None else seed,
            candidates=candidates,
        )
        seeds = [running.seed_of(choice) for choice in range(request.choices)]
        for choice, sampler in enumerate(self._prompts.samplers(request, seeds, tokens)):
            sequence = self._sequence(request, tokens, choice, now, form)
            sequence.sampler = sampler
            sequence.is_verified = bool(candidates)
            if choice == 0 and request.prompt_logprobs is not None:
                sequence.is_scored, sequence.num_scored = True, max(1, request.num_scored)
            running.sequences.append(sequence)
            in_content = request.stop if form.family is not None else ()
            running.turns.append(form.begin(request.request_id, choice, in_content))
        self._catch_up(running)
        for sequence in running.open_sequences():
            self._scheduler.add(sequence)
        self._sessions.begin(request)
        return running

    def tokenize(self, request: GenerateRequest) -> list[int]:
        """The ids of a request's own prompt. From any thread. Raises as `accept` does for it."""
        return self._prompts.tokens(request, self._scheduler.limits.context_length)

    def retry_after(self, sequences: List[Sequence]) -> float:
        """Seconds until the work of these is done, as far as its speed is known."""
        prefill = sum(one.num_remaining for one in sequences)
        decode = sum(max(0, one.limit - one.num_tokens) for one in sequences)
        costs = self._scheduler.costs
        return max(1.0, costs.seconds_of(prefill, decode, self._backend.num_sequences))

    def _sequence(
        self, request: GenerateRequest, tokens: List[int], choice: int, now: float, form: TurnForm
    ) -> Sequence:
        self._order += 1
        room = self._scheduler.limits.context_length
        most = room if request.max_tokens is None else min(room, len(tokens) + request.max_tokens)
        pieces = partial(self._pieces, form.shown) if form.shown else self._backend.detokenize
        in_all = request.stop if form.family is None else ()  # else the turn looks for them
        output = Output(pieces, in_all, request.stop_tokens, form.ends)
        return Sequence(
            request, list(tokens), len(tokens), most, output, Clock(now), choice, self._order
        )

    def _pieces(self, shown: frozenset[int], tokens: List[int]) -> bytes:
        """The bytes of tokens, with the text of some control tokens."""
        detokenize = self._backend.detokenize
        return b"".join(detokenize([token], special=token in shown) for token in tokens)

    def _catch_up(self, running: Running) -> None:
        """Bring sequences to where they were when somebody else served them.

        What they say again was heard. If the sampler does not follow, nothing is left open.
        """
        try:
            for sequence, said in zip(
                running.sequences,
                running.request.generated or ((),) * len(running.sequences),
                strict=True,
            ):
                ending = self._repeat(running, sequence, said)
                if ending is not None:
                    running.end(sequence, ending)
                    sequence.finish()
            running.deltas()
        except BaseException:
            for sequence in running.open_sequences():
                sequence.finish()
            raise

    def _repeat(
        self, running: Running, sequence: Sequence, tokens: tuple[int, ...]
    ) -> Ending | None:
        ending = None
        for token in tokens:
            if ending is not None:
                raise InvalidRequest("something was generated behind the end of an answer")
            sequence.tokens.append(token)
            if sequence.sampler is not None:
                sequence.sampler.accept(token)
            said = sequence.output.feed(token, is_eog=self._backend.is_eog(token))
            running.turns[sequence.choice].hear(token, said.text)
            ending = said.ending or running.stopped(sequence)
        if ending is None and tokens and sequence.num_tokens >= sequence.limit:
            return Ending("length")
        return ending

    def _require_room_in_the_queue(self, request: GenerateRequest) -> None:
        waiting, seats = len(self._scheduler.waiting), self._backend.num_sequences
        if waiting + request.choices > self._max_waiting + seats - len(self._scheduler.seated):
            raise Overloaded(
                f"{waiting} requests are waiting and no more are taken; try again later"
            )
        if request.choices > seats:
            raise InvalidRequest(
                f"{request.choices} choices need as many sequences, and this model was loaded"
                f" with {seats}"
            )


def prefix_of(request: VerifyRequest) -> GenerateRequest:
    """The part of a verification that is computed like any prompt."""
    return GenerateRequest(
        request.request_id,
        request.prefix,
        tenant=request.tenant,
        priority=request.priority,
        timeout_seconds=request.timeout_seconds,
        adapters=request.adapters,
        prefill_only=True,
    )
