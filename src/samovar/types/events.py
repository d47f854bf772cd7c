"""What comes of a request: deltas, and exactly one terminal event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:  # whoever only speaks of text, like the child that renders, is spared it
    import numpy as np

FinishReason = Literal["stop", "length", "cancelled", "tool_calls"]


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of one token, generated or of a prompt, over the raw logits."""

    token: int
    chosen: float
    top: tuple[tuple[int, float], ...] = ()
    """(token, log-probability) of the likeliest, likeliest first."""


class Cached(msgspec.Struct, frozen=True):
    """Tokens of a prompt that were not computed, by where their KV came from."""

    live: int = 0
    """From a sequence of the context itself."""
    memory: int = 0
    shm: int = 0
    disk: int = 0

    @property
    def total(self) -> int:
        """From anywhere."""
        return self.live + self.memory + self.shm + self.disk


DivergenceReason = Literal[
    "none",
    "off",
    "short",
    "new",
    "other_tokens",
    "evicted",
    "other_adapters",
    "no_checkpoint",
    "scored",
]


class Divergence(msgspec.Struct, frozen=True):
    """Where a prompt left what was known of it, and why."""

    position: int
    """The first token that had to be computed; the length of the prompt if none had to."""
    reason: DivergenceReason
    """`none`: nothing was left to restore. `off`: there is no cache. `short`: below the length from
    which prompts are cached. `new`: nothing is known that continues there. `other_tokens`: what is
    known continues otherwise. `evicted`: it was there. `other_adapters`: it is there, computed
    under others. `no_checkpoint`: it is there, but the model's state was not kept any later.
    `scored`: the log-probabilities of the prompt were asked for, and come of computing it."""


class Timings(msgspec.Struct, frozen=True):
    """Seconds of a request's life, one after the other."""

    queue_seconds: float = 0.0
    restore_seconds: float = 0.0
    prefill_seconds: float = 0.0
    """From admission to the first token: restoring excluded."""
    decode_seconds: float = 0.0


class Usage(msgspec.Struct, frozen=True):
    """What a request took."""

    prompt_tokens: int
    generated_tokens: int
    """Of all choices, end-of-generation and stop tokens included."""
    cached: Cached = Cached()
    timings: Timings = Timings()
    divergence: Divergence | None = None
    """Of the first choice, when it was first admitted; None: it was not."""


class Begun(msgspec.Struct, frozen=True, tag=True):
    """The prompt is being computed, or need not be: how long it is, and what of it was known.

    Comes once for a request that generates, unless that ends while it waits: before everything of
    its first choice. The numbers are those of its `Usage`, where one process serves it to the end.
    """

    request_id: str
    prompt_tokens: int
    cached: Cached = Cached()
    divergence: Divergence | None = None
    """Of the first choice."""


class PromptScores(msgspec.Struct, frozen=True, tag=True):
    """Log-probabilities of more tokens of a prompt, in order, and of each once."""

    request_id: str
    start: int
    """Which of the prompt's tokens the first of them is: never 0, before which nothing stands."""
    logprobs: tuple[TokenLogprobs, ...]


class TextDelta(msgspec.Struct, frozen=True, tag=True):
    """More text of one choice. `tokens` are the ids that were generated since the last delta."""

    request_id: str
    text: str
    tokens: tuple[int, ...]
    choice: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()


class ReasoningDelta(msgspec.Struct, frozen=True, tag=True):
    """More of the text in which the model reasons before it answers."""

    request_id: str
    text: str
    tokens: tuple[int, ...]
    choice: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()


class ToolCallDelta(msgspec.Struct, frozen=True, tag=True):
    """More of a call: the first delta of a call has its name, the others more of the arguments."""

    request_id: str
    call: int
    name: str
    arguments: str
    tokens: tuple[int, ...]
    choice: int = 0


ReplayRefusal = Literal["place", "prompt", "end", "reasoning", "text", "control"]


class Replayed(msgspec.Struct, frozen=True):
    """What was done so that a conversation's prompt begins as it did before."""

    turns: int = 0
    """Turns of the assistant in it. Those of no list below were not generated here, or are not
    remembered."""
    replayed: tuple[int, ...] = ()
    """The messages, counted from 0, for which the very tokens were used that they were."""
    tokens: int = 0
    """How many those are."""
    refused: tuple[tuple[int, ReplayRefusal], ...] = ()
    """The messages that are remembered and were tokenized anew, and why. `place`: the template does
    not show where it puts them. `prompt`: it puts something else before them than there was.
    `end`: no control token ends them. `reasoning`: it leaves their reasoning out. `text`: it writes
    something else. `control`: they would bring a control token that no template wrote."""
    volatile: tuple[tuple[str, int], ...] = ()
    """The rules that were applied, and how many places each changed (see docs/stability.md)."""


class Choice(msgspec.Struct, frozen=True):
    """How one choice ended."""

    reason: FinishReason
    seed: int
    """What it drew with: the seed that was asked for (plus the number of the choice), or one that
    was drawn."""
    stop: str | int | None = None
    """The stop string or the token that ended it; None: something else did."""


class Finished(msgspec.Struct, frozen=True, tag=True):
    """The end of a request: it went as asked, or was cancelled. Nothing follows."""

    request_id: str
    choices: tuple[Choice, ...]
    usage: Usage
    warnings: tuple[str, ...] = ()
    replayed: Replayed | None = None
    """Of a conversation; None: the request had none."""


class Verified(msgspec.Struct, frozen=True, tag=True):
    """The end of a VerifyRequest. Nothing follows."""

    request_id: str
    accepted: int
    """How many candidates, from the first on, are the model's own greedy continuation."""
    next_token: int
    """Its likeliest token after those."""
    usage: Usage


class Embedded(msgspec.Struct, frozen=True, tag=True, eq=False):
    """The end of an EmbedRequest. Nothing follows."""

    request_id: str
    vectors: np.ndarray
    """float32, of (number of inputs, width): row i is the vector of input i."""
    usage: Usage


class Ranked(msgspec.Struct, frozen=True, tag=True):
    """The end of a RankRequest. Nothing follows."""

    request_id: str
    scores: tuple[float, ...]
    """Score i is that of document i, higher is better; the scale is the model's own."""
    usage: Usage


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The end of a request that could not be served. Nothing follows."""

    request_id: str
    code: str
    message: str
    retryable: bool = False
    retry_after_seconds: float | None = None
    """When to try again, as far as that can be estimated."""


Event = (
    Begun
    | TextDelta
    | ReasoningDelta
    | ToolCallDelta
    | PromptScores
    | Finished
    | Verified
    | Embedded
    | Ranked
    | Failed
)

Burst = Sequence[Event]
"""Events of a request that came at once: one at least."""
