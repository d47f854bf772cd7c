"""`options`: how to pick tokens, by Ollama's names and with its defaults.

The one default that differs is `repeat_penalty`: 1, no penalty, where Ollama documents 1.1. A
penalty on what has just been said spoils JSON and calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from samovar.types import MAX_STOP_LENGTH, MAX_STOPS, Grammar, SamplingParams

MAX_NAME = 512  # characters of a name
_MAX_RULES = 64  # more than there are

RuleName = Annotated[str, Field(max_length=MAX_NAME)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]

_OF_LOADING = (
    "numa",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mmap",
    "use_mlock",
    "embedding_only",
    "num_thread",
)
"""What is decided when a model is loaded: the server's configuration says it."""

_OF_THE_PAST = ("num_keep", "tfs_z", "penalize_newline")
"""What this server has no use for: it never shifts a context, and its samplers lack these two."""


class Options(BaseModel):
    """The options of a request. Unknown ones are ignored, and told as a warning."""

    model_config = ConfigDict(extra="allow")

    num_ctx: int | None = None
    num_predict: int | None = None
    seed: int | None = None
    temperature: Annotated[float, Field(ge=0, le=1e6)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=1e6)] | None = None
    presence_penalty: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: Annotated[float, Field(ge=0, le=1e6)] | None = None
    mirostat_eta: Annotated[float, Field(ge=0, le=1e6)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None

    tool_choice: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    """`auto`, `required`, `none`, or a tool's name. This and what follows is ours."""
    reasoning_tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens of reasoning; then the answer has to begin."""
    replays: bool | None = None
    """Whether a turn that was generated here comes back as the tokens that it was; true."""
    volatile: Annotated[list[RuleName], Field(max_length=_MAX_RULES)] | None = None
    """Rules that hold prompts still (see docs/stability.md)."""

    @property
    def max_tokens(self) -> int | None:
        """Most tokens to generate; None: no limit, which Ollama writes as -1."""
        return self.num_predict if self.num_predict and self.num_predict > 0 else None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end generation."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


@dataclass(frozen=True, slots=True)
class _Sampled:
    """A parameter of ours: Ollama's name for it, and what Ollama takes when nothing is said."""

    option: str
    default: Any


_SAMPLING = {
    "temperature": _Sampled("temperature", 0.8),
    "top_k": _Sampled("top_k", 40),
    "top_p": _Sampled("top_p", 0.9),
    "min_p": _Sampled("min_p", 0.0),
    "typical_p": _Sampled("typical_p", 1.0),
    "penalty_last_n": _Sampled("repeat_last_n", 64),
    "repeat_penalty": _Sampled("repeat_penalty", 1.0),
    "presence_penalty": _Sampled("presence_penalty", 0.0),
    "frequency_penalty": _Sampled("frequency_penalty", 0.0),
    "mirostat": _Sampled("mirostat", 0),
    "mirostat_tau": _Sampled("mirostat_tau", 5.0),
    "mirostat_eta": _Sampled("mirostat_eta", 0.1),
}


def sampling_of(
    options: Options, grammar: Grammar | None = None, logprobs: int | None = None
) -> SamplingParams:
    """How to pick tokens. Raises InvalidRequest."""
    chosen = {}
    for name, known in _SAMPLING.items():
        said = getattr(options, known.option)
        chosen[name] = known.default if said is None else said
    seed = options.seed
    return SamplingParams(
        **chosen,
        seed=seed if seed is not None and seed >= 0 else None,
        grammar=grammar,
        logprobs=logprobs,
    )


def option_warnings(options: Options, context_length: int) -> list[str]:
    """What was asked for and is not done, in a sentence each; never what only repeats a default."""
    given = {name for name, value in (options.model_extra or {}).items() if value is not None}
    found = []
    fixed = [name for name in _OF_LOADING if name in given]
    if fixed:
        found.append(f"{', '.join(fixed)}: ignored; set when a model is loaded, by the server")
    past = [name for name in _OF_THE_PAST if name in given]
    if past:
        found.append(f"{', '.join(past)}: ignored; not known here")
    unknown = len(given - {*_OF_LOADING, *_OF_THE_PAST})
    if unknown:
        found.append(f"options: {unknown} of them ignored; not known here")
    if options.num_ctx is not None and options.num_ctx > context_length:
        found.append(
            f"num_ctx: ignored; this model is loaded with a context of {context_length} tokens"
        )
    return found
