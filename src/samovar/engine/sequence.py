"""One choice of a request while the engine works on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from samovar.engine.output import Ending, Output
from samovar.native.interface import Sampler
from samovar.types import Divergence, GenerateRequest

Adapters = tuple[tuple[str, float], ...]


class Phase(Enum):
    """Where a sequence is in its life."""

    WAITING = "waiting"
    RESTORING = "restoring"
    RUNNING = "running"
    FINISHED = "finished"


class IllegalTransitionError(RuntimeError):
    """A sequence was asked to go where its life does not lead: a bug in the engine."""


@dataclass(slots=True)
class Clock:
    """Moments of a sequence's life, in seconds of the engine's clock."""

    submitted: float
    admitted: float | None = None
    restored: float | None = None
    """When its cached blocks were in the cells; None: there were none."""
    first_token: float | None = None
    last_token: float | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens, and how many of them are computed. A step lets the computed catch up.

        restore          restored          finish
    WAITING ──> RESTORING ────> RUNNING ──────────> FINISHED
       ^ └──────────────────────^ │  └────────────────^ (from everywhere: cancelled, failed)
       │         admit            │
       └──────────────────────────┘
                 preempt

    There are no halves for prefill and decode: a warm prefix, a chunk, a resumption and a forced
    run of tokens are all the same subtraction, `num_remaining`. `tokens[:num_computed]` is what
    the cells of `seq_id` hold.
    """

    request: GenerateRequest
    tokens: list[int]
    num_prompt: int
    limit: int
    """Most tokens it may come to, prompt included."""
    output: Output
    clock: Clock
    choice: int = 0
    order: int = 0
    """Goes up with every submission: the younger has the higher one."""
    sampler: Sampler | None = None
    num_computed: int = 0
    seq_id: int | None = None
    num_live: int = 0
    """Tokens of the prompt that were there already when it was first admitted."""
    must_end_at: int | None = None
    """A position at which a chunk has to end, because the state is taken over just there."""
    ending: Ending | None = None
    phase: Phase = field(default=Phase.WAITING)
    restored: dict[str, int] = field(default_factory=dict)
    """Tokens that came out of the cache when it was first admitted, by tier."""
    divergence: Divergence | None = None
    """Where it left what was known, when it was first admitted."""
    num_saved: int = 0
    """Its first tokens that were offered to the cache."""
    branches_at: int | None = None
    """Where others left what is known: a state that cannot be cut is worth keeping there."""
    behind: Sequence | None = None
    """Another one that is computing what this one begins with, up to `behind_until`."""
    behind_until: int = 0
    num_preemptions: int = 0
    turn: int = 0
    """When those whose decode calls it shares last had theirs, or it joined them."""
    is_scored: bool = False
    """The log-probabilities of its prompt are wanted."""
    num_scored: int = 1
    """Tokens of the prompt whose log-probabilities are known, or that have none: the first one."""
    is_verified: bool = False
    """Candidates are verified once it is computed, from the logits behind it."""

    @property
    def request_id(self) -> str:
        """The id of its request."""
        return self.request.request_id

    @property
    def adapters(self) -> Adapters:
        """Under which adapters it is computed; those that differ never share a batch."""
        return self.request.adapters

    @property
    def salt(self) -> str:
        """Who may take its cells over: those of the same salt."""
        salt = self.request.cache_salt
        return self.request.tenant if salt is None else salt

    @property
    def num_tokens(self) -> int:
        """All tokens, computed or not."""
        return len(self.tokens)

    @property
    def num_generated(self) -> int:
        """Tokens behind the prompt."""
        return len(self.tokens) - self.num_prompt

    @property
    def num_remaining(self) -> int:
        """Tokens that are known and not computed."""
        return len(self.tokens) - self.num_computed

    @property
    def awaits_scores(self) -> bool:
        """Whether log-probabilities of its prompt are wanted that are not known."""
        return self.is_scored and self.num_scored < self.num_prompt

    @property
    def scores_next(self) -> bool:
        """Whether those come of what is computed next. What lies before is told already."""
        return self.awaits_scores and self.num_computed >= self.num_scored - 1

    @property
    def samples(self) -> bool:
        """Whether a token is to be picked once everything known is computed."""
        return not self.request.prefill_only

    def admit(self, seq_id: int, num_computed: int, now: float) -> None:
        """It gets a sequence id; its first tokens are there already."""
        self._go(Phase.WAITING, Phase.RUNNING)
        self._sit(seq_id, now)
        self.num_computed = num_computed
        if self.num_preemptions == 0:
            self.num_live = min(num_computed, self.num_prompt)

    def restore(self, seq_id: int, now: float) -> None:
        """It gets a sequence id; its first tokens are on their way there."""
        self._go(Phase.WAITING, Phase.RESTORING)
        self._sit(seq_id, now)

    def run(self, num_computed: int, now: float) -> None:
        """What was on its way is there: so many tokens."""
        self._go(Phase.RESTORING, Phase.RUNNING)
        self.num_computed = num_computed
        if num_computed and self.clock.first_token is None:
            self.clock.restored = now

    def _sit(self, seq_id: int, now: float) -> None:
        self.seq_id = seq_id
        if self.clock.admitted is None:
            self.clock.admitted = now

    def preempt(self) -> None:
        """Its cells are gone; it waits and will be computed again from its tokens."""
        self._go(Phase.RUNNING, Phase.WAITING)
        self.seq_id, self.num_computed, self.must_end_at = None, 0, None
        self.num_preemptions += 1

    def lose_cells(self) -> None:
        """Its cells had to be wiped; it keeps its place and computes again."""
        self.num_computed = 0

    def advance(self, count: int) -> None:
        """`count` more tokens are computed."""
        self.num_computed += count
        if self.num_computed > len(self.tokens):
            raise IllegalTransitionError("more tokens computed than there are")

    def append(self, token: int, now: float) -> None:
        """A token was generated; it is not computed yet."""
        self.tokens.append(token)
        self.clock.last_token = now
        if self.clock.first_token is None:
            self.clock.first_token = now

    def finish(self) -> None:
        """It is over, from wherever it was. Its cells are no longer its own."""
        if self.phase is Phase.FINISHED:
            raise IllegalTransitionError("a sequence finishes once")
        self.phase = Phase.FINISHED
        self.seq_id = None
        if self.sampler is not None:
            self.sampler.close()

    def _go(self, source: Phase, target: Phase) -> None:
        if self.phase is not source:
            raise IllegalTransitionError(f"{self.phase.value} sequences cannot be {target.value}")
        self.phase = target


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens two lists begin with in common: by halving, at the speed of memcmp."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
