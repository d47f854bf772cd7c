"""What is told of requests: their tokens as they come, and exactly one end of each."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as List

from samovar.engine.batch import Broken, Scored
from samovar.engine.caching import Caching
from samovar.engine.failure import failure
from samovar.engine.output import Ending
from samovar.engine.request import Running
from samovar.engine.scheduler import Scheduler
from samovar.engine.sequence import Phase, Sequence
from samovar.engine.sessions import Sessions
from samovar.engine.verifying import Verifying
from samovar.errors import DeadlineExceeded, SamovarError
from samovar.native.interface import RowFailed, Sampled
from samovar.types import Event


class Answering:
    """The requests of one engine that are not over, and what is to be told of them."""

    def __init__(
        self,
        scheduler: Scheduler,
        sessions: Sessions,
        caching: Caching,
        verifying: Verifying,
        clock: Callable[[], float],
    ) -> None:
        self.requests: dict[str, Running] = {}
        """By id."""
        self.events: list[Event] = []
        """What was not taken away yet."""
        self._beginning: list[Sequence] = []
        """First choices of requests that were admitted, and have not said that they begin."""
        self._scheduler = scheduler
        self._sessions = sessions
        self._caching = caching
        self._verifying = verifying
        self._now = clock

    def told(self) -> list[Event]:
        """Take away what is to be told."""
        events, self.events = self.events, []
        return events

    @property
    def is_idle(self) -> bool:
        """Whether everything is over and told."""
        return not self.requests and not self.events

    def begin(self, running: Running, now: float) -> None:
        """A request was accepted."""
        self.requests[running.request.request_id] = running
        for sequence in running.open_sequences():
            self._caching.expect(sequence)
        if running.is_over:  # somebody else brought it to its end
            self.events.append(running.finished(now))
            self._forget(running)

    def admit(self, sequence: Sequence) -> None:
        """A sequence has a seat; with the first one of a request that generates, that begins."""
        running = self.requests[sequence.request_id]
        if running.has_begun or running.candidates:
            return
        if running.open_sequences()[0] is sequence:
            running.has_begun = True
            self._beginning.append(sequence)

    def tell_begun(self) -> None:
        """Say what was known of prompts, as soon as all of it is in their cells."""
        if not self._beginning:
            return
        still = []
        for sequence in self._beginning:
            if sequence.phase is Phase.RESTORING:
                still.append(sequence)
            elif sequence.phase is not Phase.FINISHED:
                self.events.append(self.requests[sequence.request_id].begun())
        self._beginning = still

    def end_what_is_over(self, now: float) -> None:
        """End what was cancelled, and fail what has used up its time."""
        for running in list(self.requests.values()):
            if running.is_cancelled:
                self._cancel(running, now)
            elif running.is_late(now):
                seconds = running.request.timeout_seconds
                self.fail(
                    running, DeadlineExceeded(f"not finished within {seconds:g} s; it was stopped")
                )

    # ---- what came of a step ------------------------------------------------------------------

    def tell_scores(self, scores: List[Scored]) -> None:
        """Log-probabilities of prompts have come."""
        for one in scores:
            if one.sequence.phase is not Phase.FINISHED:
                running = self.requests[one.sequence.request_id]
                self.events.append(running.score(one.sequence, one.start, one.logprobs))

    def break_off(self, broken: Broken) -> None:
        """A sequence that cannot be computed: out of room, or a failure of its own."""
        if broken.sequence.phase is not Phase.RUNNING:
            return  # a sibling choice took it along, or it lost its cells and tries again
        running = self.requests[broken.sequence.request_id]
        if broken.error is None:
            self._end(running, broken.sequence, Ending("length"), self._now())
        else:
            self.fail(running, broken.error)

    def take(self, sequence: Sequence, result: Sampled | RowFailed | None, now: float) -> None:
        """What a sequence got out of the step."""
        if sequence.phase is Phase.FINISHED:
            return  # a sibling choice took it along; who lost its cells since still has its token
        running = self.requests[sequence.request.request_id]
        if isinstance(result, Sampled):
            self._take_token(running, sequence, result, now)
        elif isinstance(result, RowFailed):
            self.fail(running, result.error)
        elif not sequence.samples and not sequence.num_remaining:
            if running.candidates:
                self._verify(running, sequence)
            else:
                self._end(running, sequence, Ending("stop"), now)

    def _verify(self, running: Running, sequence: Sequence) -> None:
        try:
            verdict = self._verifying.verify(sequence, running.candidates)
        except SamovarError as error:
            self.fail(running, error)
            return
        self._remove(sequence)
        self.events.append(running.verified(verdict.accepted, verdict.next_token, self._now()))
        self._forget(running)

    def _take_token(
        self, running: Running, sequence: Sequence, sampled: Sampled, now: float
    ) -> None:
        sequence.append(sampled.token, now)
        said = sequence.output.feed(sampled.token, is_eog=sampled.is_eog)
        running.hear(sequence, sampled, said.text)
        ending = said.ending or running.stopped(sequence)
        room = sequence.limit - sequence.num_tokens
        if ending is not None:
            self._end(running, sequence, ending, now)
        elif room <= 0:
            self._end(running, sequence, Ending("length"), now)
        else:
            self._append_forced(running, sequence, room, now)
        self.events += running.turns[sequence.choice].take()

    def _append_forced(self, running: Running, sequence: Sequence, room: int, now: float) -> None:
        """What is left no choice about is computed with the next step, all at once."""
        sampler = sequence.sampler
        assert sampler is not None
        try:
            forced = running.forced(sequence)[:room] or sampler.forced(room)
            for token in forced:
                sampler.accept(token)
        except SamovarError as error:  # the grammar has become too much work, or leads nowhere
            self.fail(running, error)
            return
        if not forced:
            return
        for token in forced:
            sequence.append(token, now)
            said = sequence.output.feed(token, is_eog=False)
            running.hear_forced(sequence, token, said.text)
            ending = said.ending or running.stopped(sequence)
            if ending is not None:
                self._end(running, sequence, ending, now)
                return
        if sequence.num_tokens >= sequence.limit:
            self._end(running, sequence, Ending("length"), now)

    # ---- ends ---------------------------------------------------------------------------------

    def _end(self, running: Running, sequence: Sequence, ending: Ending, now: float) -> None:
        """One choice is over; with the last of them the request is."""
        running.end(sequence, ending)
        self._sessions.keep(sequence)
        self._remove(sequence)
        self.events += running.deltas()
        if running.is_over:
            self.events.append(running.finished(now))
            self._forget(running)

    def _cancel(self, running: Running, now: float) -> None:
        for sequence in running.open_sequences():
            self._end(running, sequence, Ending("cancelled"), now)

    def fail(self, running: Running, error: SamovarError) -> None:
        """A request ends with an error, all choices of it."""
        for sequence in running.open_sequences():
            self._caching.forget(sequence)
            self._scheduler.remove(sequence, keeps_cells=True)
        self.events += running.deltas()
        self.events.append(failure(running.request.request_id, error))
        self._forget(running)

    def _remove(self, sequence: Sequence) -> None:
        """Its cells are idle from now on, and whoever comes next may need their room."""
        self._caching.save(sequence, "finish")
        self._caching.forget(sequence)
        self._scheduler.remove(sequence, keeps_cells=sequence.num_computed > 0)

    def _forget(self, running: Running) -> None:
        del self.requests[running.request.request_id]
        self._sessions.release(running.request)
