"""A request while it is served: its choices, their turns, and its end."""

from __future__ import annotations

from collections.abc import Sequence as List
from dataclasses import dataclass, field

import msgspec

from samovar.chat.turn import Turn
from samovar.engine.output import Ending
from samovar.engine.sequence import Phase, Sequence
from samovar.native.interface import Logprobs, Sampled
from samovar.types import (
    Begun,
    Cached,
    Choice,
    Event,
    Finished,
    GenerateRequest,
    PromptScores,
    Timings,
    TokenLogprobs,
    Usage,
    Verified,
)

SEEDS = 2**64


@dataclass(slots=True, eq=False)
class Running:
    """One request from its acceptance to its one terminal event."""

    request: GenerateRequest
    num_prompt: int
    seed: int
    """Choice i draws with this plus i."""
    sequences: list[Sequence] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    """By choice: what they say, by kind."""
    has_begun: bool = False
    """Its first choice was admitted: that it begins is told then, and not again."""
    is_cancelled: bool = False
    candidates: tuple[int, ...] = ()
    """What is to be verified behind the prompt; () for requests that generate."""

    @property
    def is_over(self) -> bool:
        """Whether every choice has ended."""
        return not self.open_sequences()

    def open_sequences(self) -> list[Sequence]:
        """The choices that have not ended."""
        return [one for one in self.sequences if one.phase is not Phase.FINISHED]

    def is_late(self, now: float) -> bool:
        """Whether it has used up its time."""
        limit = self.request.timeout_seconds
        return limit is not None and now - self.sequences[0].clock.submitted > limit

    def seed_of(self, choice: int) -> int:
        """What a choice draws with."""
        return (self.seed + choice) % SEEDS

    # ---- saying -------------------------------------------------------------------------------

    def begun(self) -> Begun:
        """How long the prompt is and what was known of it, once that is in its cells."""
        first = self.sequences[0]
        return Begun(self.request.request_id, self.num_prompt, _cached(first), first.divergence)

    def hear(self, sequence: Sequence, sampled: Sampled, text: str) -> None:
        """A choice generated a token, which made this text sure."""
        scores = sampled.logprobs
        told = None
        if scores is not None:
            told = TokenLogprobs(sampled.token, scores.chosen, scores.top)
        self.turns[sequence.choice].hear(sampled.token, text, told)

    def score(self, sequence: Sequence, start: int, logprobs: List[Logprobs]) -> PromptScores:
        """Log-probabilities of the prompt's tokens from `start` on are known."""
        sequence.num_scored = start + len(logprobs)
        tokens = sequence.tokens[start : sequence.num_scored]
        told = (
            TokenLogprobs(token, one.chosen, one.top)
            for token, one in zip(tokens, logprobs, strict=True)
        )
        return PromptScores(self.request.request_id, start, tuple(told))

    def stopped(self, sequence: Sequence) -> Ending | None:
        """How a choice is over whose answer has come to a stop string."""
        stop = self.turns[sequence.choice].stop
        return None if stop is None else Ending("stop", stop)

    def forced(self, sequence: Sequence) -> tuple[int, ...]:
        """Ids that a choice must have next, whatever is likely."""
        return self.turns[sequence.choice].forced()

    def hear_forced(self, sequence: Sequence, token: int, text: str) -> None:
        """A choice has a token that was left no choice about: nothing was drawn."""
        scores = None if self.request.sampling.logprobs is None else TokenLogprobs(token, 0.0)
        self.turns[sequence.choice].hear(token, text, scores)

    def deltas(self) -> list[Event]:
        """What was heard since the last call."""
        return [event for turn in self.turns for event in turn.take()]

    # ---- the end ------------------------------------------------------------------------------

    def end(self, sequence: Sequence, ending: Ending) -> None:
        """A choice has ended; what was held back of it is said now."""
        turn = self.turns[sequence.choice]
        turn.end(sequence.output.flush())
        if turn.stop is not None and ending.reason != "cancelled":
            ending = Ending("stop", turn.stop)
        if ending.reason == "stop" and turn.has_calls:
            ending = msgspec.structs.replace(ending, reason="tool_calls")
        sequence.ending = ending

    def finished(self, now: float) -> Finished:
        """The terminal event, once every choice has ended."""
        choices: list[Choice] = []
        for one in self.sequences:
            assert one.ending is not None
            choices.append(Choice(one.ending.reason, self.seed_of(one.choice), one.ending.stop))
        warnings = [one.sampler.warnings for one in self.sequences if one.sampler is not None]
        found = dict.fromkeys(text for texts in warnings for text in texts)
        usage = self._usage(now)
        return Finished(self.request.request_id, tuple(choices), usage, tuple(found))

    def verified(self, accepted: int, next_token: int, now: float) -> Verified:
        """The terminal event of a verification."""
        return Verified(self.request.request_id, accepted, next_token, self._usage(now))

    def _usage(self, now: float) -> Usage:
        generated = sum(one.num_tokens - one.num_prompt for one in self.sequences)
        first = self.sequences[0]
        timings = _timings(self.sequences, now)
        return Usage(self.num_prompt, generated, _cached(first), timings, first.divergence)


def _cached(sequence: Sequence) -> Cached:
    return Cached(live=sequence.num_live, **sequence.restored)


def _timings(sequences: list[Sequence], now: float) -> Timings:
    """Of the request as a whole: its first choice is admitted first, the last one ends it."""
    clock = sequences[0].clock
    if clock.admitted is None:
        return Timings(queue_seconds=now - clock.submitted)
    queue = clock.admitted - clock.submitted
    restored = clock.admitted if clock.restored is None else clock.restored
    restore = restored - clock.admitted
    if clock.first_token is None:
        return Timings(queue, restore, now - restored)
    last = max(one.clock.last_token or clock.first_token for one in sequences)
    return Timings(queue, restore, clock.first_token - restored, last - clock.first_token)
