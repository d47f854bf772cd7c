"""The nouns every layer speaks. Frozen; they import nothing of ours but errors."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from samovar.errors import InvalidRequest

if TYPE_CHECKING:  # whoever only speaks of text, like the child that renders, is spared it
    import numpy as np

Message = dict[str, Any]
Tool = dict[str, Any]

FinishReason = Literal["stop", "length", "cancelled", "tool_calls"]

GrammarKind = Literal["gbnf", "lark", "regex", "choice", "json_object", "json_schema"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the generated text must be.

    `source` by kind: GBNF or Lark text; a regular expression over the whole answer; for `choice` a
    JSON array of the allowed texts; for `json_schema` the schema as JSON text; for `json_object`
    nothing. Whether it compiles is found out when it is used (GrammarRejected).
    """

    kind: GrammarKind
    source: str = ""


DEFAULT_TENANT = ""

# The defaults of llama.cpp's DRY sampler: sequences that a repetition may not run across.
DRY_BREAKERS = ("\n", ":", '"', "*")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to pick a token. The defaults switch every stage off: greedy.

    Stages run in the order of the fields below (the order of the reference, section 2.5). Each
    is left out while it has its neutral value. `mirostat` replaces everything after the logit
    bias. Raises InvalidRequest for values that no sampler can honour.
    """

    grammar: str | Grammar | None = None
    """What the text must be, plain text meaning GBNF; generation can only leave it at its end."""
    logit_bias: dict[int, float] = field(default_factory=dict)
    """Token id -> number added to its logit; `-inf` forbids it."""
    ignore_eos: bool = False
    """Forbid every end-of-generation token."""
    min_tokens: int = 0
    """Forbid them until so many tokens were generated."""
    mirostat: Literal[0, 1, 2] = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    """How many of the last tokens, prompt included, the penalties look at; -1: all."""
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = DRY_BREAKERS
    top_n_sigma: float = 0.0
    top_k: int = 0
    typical_p: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    min_keep: int = 1
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    infill: bool = False
    temperature: float = 0.0
    """0 or less: greedy, whatever the seed."""
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    seed: int | None = None
    """Any integer of 0 to 2**64 - 1. Without one, one is drawn when the sampler is built."""
    logprobs: int | None = None
    """How many alternatives to report, 0 to 32; None: no log-probabilities."""

    def __post_init__(self) -> None:
        _check_sampling(self)


# Per field: the least and the greatest value that llama.cpp's samplers accept or make sense of.
_RANGES: dict[str, tuple[float, float]] = {
    "min_tokens": (0, 2**31 - 1),
    "mirostat": (0, 2),
    "mirostat_tau": (0, 1e6),
    "mirostat_eta": (0, 1e6),
    "repeat_penalty": (1e-6, 1e6),
    "frequency_penalty": (-1e6, 1e6),
    "presence_penalty": (-1e6, 1e6),
    "penalty_last_n": (-1, 2**31 - 1),
    "dry_multiplier": (0, 1e6),
    "dry_base": (0, 1e6),
    "dry_allowed_length": (0, 2**31 - 1),
    "dry_penalty_last_n": (-1, 2**31 - 1),
    "top_n_sigma": (-1e6, 1e6),
    "top_k": (-(2**31), 2**31 - 1),
    "typical_p": (0, 1e6),
    "top_p": (0, 1e6),
    "min_p": (0, 1),
    "min_keep": (0, 2**31 - 1),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    "temperature": (-1e6, 1e6),
    "dynatemp_range": (0, 1e6),
    "dynatemp_exponent": (0, 1e6),
    "seed": (0, 2**64 - 1),
    "logprobs": (0, 32),
}


def _check_sampling(params: SamplingParams) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(params, name)
        if value is None and name in ("seed", "logprobs"):
            continue
        whole = name in _WHOLE
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            kind = "a whole number" if whole else "a number"
            raise InvalidRequest(f"{name} must be {kind}, not {type(value).__name__}")
        if not low <= value <= high:  # also refuses NaN
            raise InvalidRequest(f"{name} must be between {low:g} and {high:g}, not {value!r}")
    _check_bias(params.logit_bias)
    _check_breakers(params.dry_sequence_breakers)
    for name in ("ignore_eos", "infill"):
        if not isinstance(getattr(params, name), bool):
            raise InvalidRequest(f"{name} must be true or false")
    if params.grammar is not None and not isinstance(params.grammar, (str, Grammar)):
        raise InvalidRequest("grammar must be GBNF text or a Grammar")


def _check_bias(bias: object) -> None:
    if not isinstance(bias, dict) or not all(map(_is_bias, bias.keys(), bias.values())):
        raise InvalidRequest(
            "logit_bias must map token ids to numbers from -1000000 to 1000000, or to -inf"
        )


def _is_bias(token: object, bias: object) -> bool:
    if isinstance(token, bool) or not isinstance(token, int):
        return False
    if isinstance(bias, bool) or not isinstance(bias, (int, float)):
        return False
    return bias == -math.inf or -1e6 <= bias <= 1e6


def _check_breakers(breakers: object) -> None:
    if not isinstance(breakers, (tuple, list)) or len(breakers) > _MAX_BREAKERS:
        raise InvalidRequest(f"dry_sequence_breakers must be at most {_MAX_BREAKERS} texts")
    for text in breakers:
        if not isinstance(text, str) or _UNUSABLE.search(text):
            raise InvalidRequest("dry_sequence_breakers must be texts of whole characters")


_UNUSABLE = re.compile("[\\x00\ud800-\udfff]")  # NUL ends a C string; halves of pairs are no UTF-8
_MAX_BREAKERS = 32  # llama.cpp goes through the whole vocabulary for each: up to 0.05 s

_WHOLE = frozenset(
    {
        "min_tokens",
        "mirostat",
        "penalty_last_n",
        "dry_allowed_length",
        "dry_penalty_last_n",
        "top_k",
        "min_keep",
        "seed",
        "logprobs",
    }
)


# ---- requests -----------------------------------------------------------------------------------

MAX_CHOICES = 64  # of one request: each of them holds a sequence of the context
MAX_STOPS = 64  # every one of them is looked for at every token
MAX_STOP_LENGTH = 1024  # so much text may be held back while a stop string may be beginning


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One prompt and how to continue it. Raises InvalidRequest for values that make no sense."""

    request_id: str
    """Names the request in every event; unique among those that are not finished."""
    prompt: str | bytes | tuple[int, ...]
    """Text, or token ids. Text is tokenized with what the model expects around it (BOS), and
    control tokens written in it stay text."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    """Most tokens to generate; None: until the model ends or the room of a sequence is used up."""
    stop: tuple[str, ...] = ()
    """Texts that end generation; they are not part of the answer."""
    stop_tokens: tuple[int, ...] = ()
    """Ids that end generation, besides the model's own end-of-generation ids."""
    choices: int = 1
    """How many answers to generate to the one prompt. Answer i draws with seed + i."""
    tenant: str = DEFAULT_TENANT
    """Whose request it is: what is computed is shared out fairly between tenants."""
    priority: int = 0
    """Higher goes first; waiting raises it."""
    timeout_seconds: float | None = None
    """From submission to the last token; None: no limit."""
    adapters: tuple[tuple[str, float], ...] = ()
    """Names of loaded LoRA adapters with their scales."""
    prefill_only: bool = False
    """Compute the prompt and generate nothing: it is warm for what comes next."""
    session: str | None = None
    """Keep the sequence between requests under this name."""
    continues: bool = False
    """The prompt follows on all that the session holds, instead of containing it. May be empty."""
    expect_committed: tuple[int, ...] | None = None
    """With `continues`: the tokens the session must hold, or the request is refused."""
    generated: tuple[tuple[int, ...], ...] = ()
    """What was generated before, by choice, when a request is taken up again that somebody else
    began: it goes on behind it as if it had never stopped, if it has the seed that it had."""
    is_stored: bool = True
    """Keep what is computed for it in the cache; without, it only takes from there."""
    cache_salt: str | None = None
    """Only requests of the same salt share what was computed. None: the tenant is the salt."""

    def __post_init__(self) -> None:
        _check_request(self)


def _check_request(request: GenerateRequest) -> None:
    if not request.request_id:
        raise InvalidRequest("the request needs an id")
    _check_at_least("max_tokens", request.max_tokens, 1)
    _check_at_least("choices", request.choices, 1)
    if request.choices > MAX_CHOICES:
        raise InvalidRequest(f"at most {MAX_CHOICES} choices fit into one request")
    if request.timeout_seconds is not None and not request.timeout_seconds > 0:
        raise InvalidRequest("timeout_seconds must be positive")
    if len(request.stop) > MAX_STOPS:
        raise InvalidRequest(f"at most {MAX_STOPS} stop strings can be looked for")
    for text in request.stop:
        if not text or len(text) > MAX_STOP_LENGTH:
            raise InvalidRequest(f"a stop string has 1 to {MAX_STOP_LENGTH} characters")
    if request.generated and len(request.generated) != request.choices:
        raise InvalidRequest("generated goes by choice: give one list of tokens for each")
    _check_session(request)


def _check_session(request: GenerateRequest) -> None:
    if request.session is None and (request.continues or request.expect_committed is not None):
        raise InvalidRequest("only a request with a session can continue one")
    if request.session is not None and request.choices > 1:
        raise InvalidRequest("a session holds one sequence; ask for one choice")
    if request.expect_committed is not None and not request.continues:
        raise InvalidRequest("expect_committed goes with continues")
    if not request.prompt and not request.continues:
        raise InvalidRequest("the prompt is empty; give some text or tokens")


def _check_at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and (isinstance(value, bool) or value < least):
        raise InvalidRequest(f"{name} must be {least} or more")


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """Guesses of what the model would say: how many of them are what it says, greedily.

    What speculation is made of: the guesses cost one decode call, however many are right. Nothing
    of it stays behind but the prefix, as warm as after any request.
    """

    request_id: str
    prefix: tuple[int, ...]
    candidates: tuple[int, ...]
    tenant: str = DEFAULT_TENANT
    priority: int = 0
    timeout_seconds: float | None = None
    adapters: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.prefix:
            raise InvalidRequest("the prefix is empty; give the tokens that come before")
        if not self.candidates:
            raise InvalidRequest("there are no candidates to verify")


MAX_INPUTS = 2048  # of one request: as many as clients of hosted models are used to

EmbeddingText = str | bytes | tuple[int, ...]
"""A text, or token ids that are taken as they are."""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts that become vectors. Raises InvalidRequest for values that make no sense."""

    request_id: str
    """Names the request in its event; unique among those that are not finished."""
    inputs: tuple[EmbeddingText, ...]
    """A text gets what the model expects around it (BOS and the like), and control tokens written
    in it stay text; token ids get nothing."""
    pooling: Literal["mean", "cls", "last"] | None = None
    """How the states of all tokens become one vector; None: as the file says, else the last."""
    normalizes: bool = True
    """Scale every vector to length 1, so that the product of two is the cosine between them."""
    truncates: bool = False
    """Cut a text that is longer than the model sees at once, instead of refusing it."""
    tenant: str = DEFAULT_TENANT
    priority: int = 0
    timeout_seconds: float | None = None
    """From submission to the vectors; None: no limit."""
    adapters: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        _check_texts(self.request_id, self.timeout_seconds, self.inputs)
        if self.pooling not in (None, "mean", "cls", "last"):
            raise InvalidRequest("pooling must be mean, cls or last")


@dataclass(frozen=True, slots=True)
class RankRequest:
    """Documents that are scored against a query. Raises InvalidRequest for values of no sense."""

    request_id: str
    query: EmbeddingText
    documents: tuple[EmbeddingText, ...]
    truncates: bool = False
    """Cut a document that does not fit beside the query, instead of refusing it."""
    tenant: str = DEFAULT_TENANT
    priority: int = 0
    timeout_seconds: float | None = None
    adapters: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        _check_texts(self.request_id, self.timeout_seconds, self.documents)
        _check_text(self.query)


def _check_texts(
    request_id: str, timeout_seconds: float | None, texts: tuple[EmbeddingText, ...]
) -> None:
    if not request_id:
        raise InvalidRequest("the request needs an id")
    if timeout_seconds is not None and not timeout_seconds > 0:
        raise InvalidRequest("timeout_seconds must be positive")
    if not isinstance(texts, tuple) or not 1 <= len(texts) <= MAX_INPUTS:
        raise InvalidRequest(f"a request holds 1 to {MAX_INPUTS} texts; send several")
    for text in texts:
        _check_text(text)


def _check_text(text: EmbeddingText) -> None:
    if not isinstance(text, (str, bytes, tuple)):
        raise InvalidRequest("a text is a string, bytes or a tuple of token ids")
    if not text:
        raise InvalidRequest("a text is empty; give some text or tokens")


# ---- events -------------------------------------------------------------------------------------


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of one generated token, over the raw logits."""

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
    "none", "off", "short", "new", "other_tokens", "evicted", "other_adapters", "no_checkpoint"
]


class Divergence(msgspec.Struct, frozen=True):
    """Where a prompt left what was known of it, and why."""

    position: int
    """The first token that had to be computed; the length of the prompt if none had to."""
    reason: DivergenceReason
    """`none`: nothing was left to restore. `off`: there is no cache. `short`: below the length from
    which prompts are cached. `new`: nothing is known that continues there. `other_tokens`: what is
    known continues otherwise. `evicted`: it was there. `other_adapters`: it is there, computed
    under others. `no_checkpoint`: it is there, but the model's state was not kept any later."""


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
    TextDelta | ReasoningDelta | ToolCallDelta | Finished | Verified | Embedded | Ranked | Failed
)
