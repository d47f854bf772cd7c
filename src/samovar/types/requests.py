"""What can be asked of a model: text, verified guesses, vectors, scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from samovar.errors import InvalidRequest
from samovar.types.chat import Chat
from samovar.types.sampling import MAX_LOGPROBS, SamplingParams

DEFAULT_TENANT = ""

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
    control tokens written in it stay text. Empty where `chat` becomes the prompt."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    """Most tokens to generate; None: until the model ends or the room of a sequence is used up."""
    stop: tuple[str, ...] = ()
    """Texts that end generation; they are not part of the answer. With `chat` they count in the
    answer's content, not in reasoning and calls."""
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
    prompt_logprobs: int | None = None
    """How many of the likeliest alternatives to tell at every token of the prompt but the first,
    with its own log-probability (`PromptScores`). The prompt is then computed, whatever is known
    of it. None: nothing is told of it."""
    num_scored: int = 0
    """Tokens of the prompt that need no score any more, when a request is taken up again."""
    chat: Chat | None = None
    """A conversation instead of a prompt; the answer comes as text, reasoning and tool calls."""

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
    _check_scores(request)
    _check_session(request)


def _check_scores(request: GenerateRequest) -> None:
    count = request.prompt_logprobs
    _check_at_least("prompt_logprobs", count, 0)
    if count is not None and count > MAX_LOGPROBS:
        raise InvalidRequest(f"prompt_logprobs must be at most {MAX_LOGPROBS}")
    if count is not None and request.continues:
        raise InvalidRequest(
            "what a session holds is not computed again, so it has no log-probabilities: leave out"
            " continues or prompt_logprobs"
        )
    if request.num_scored < 0:
        raise InvalidRequest("num_scored must be 0 or more")


def _check_session(request: GenerateRequest) -> None:
    if request.session is None and (request.continues or request.expect_committed is not None):
        raise InvalidRequest("only a request with a session can continue one")
    if request.session is not None and request.choices > 1:
        raise InvalidRequest("a session holds one sequence; ask for one choice")
    if request.expect_committed is not None and not request.continues:
        raise InvalidRequest("expect_committed goes with continues")
    if request.chat is not None and request.prompt:
        raise InvalidRequest("a request has a prompt or a chat, not both")
    if not request.prompt and request.chat is None and not request.continues:
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
