"""How to pick a token: every stage of the sampler chain, and grammars."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from samovar.errors import InvalidRequest

GrammarKind = Literal["gbnf", "lark", "regex", "choice", "json_object", "json_schema"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the generated text must be.

    `source` by kind: GBNF or Lark text; a regular expression over the whole answer; for `choice` a
    JSON array of the allowed texts; for `json_schema` the schema as JSON text; for `json_object`
    nothing. Whether it compiles is found out when it is used (GrammarRejected). Raises
    InvalidRequest for another kind.
    """

    kind: GrammarKind
    source: str = ""

    def __post_init__(self) -> None:
        kinds = get_args(GrammarKind)
        if self.kind not in kinds:
            raise InvalidRequest(f"no grammar is of that kind; use {', '.join(kinds)}")


# The defaults of llama.cpp's DRY sampler: sequences that a repetition may not run across.
DRY_BREAKERS = ("\n", ":", '"', "*")

MAX_LOGPROBS = 32  # alternatives of a token: every token's are told, each with 2 numbers


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
    "logprobs": (0, MAX_LOGPROBS),
}


def _check_sampling(params: SamplingParams) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(params, name)
        # Nearly all are plain numbers within their range: each request is checked several times.
        is_plain = type(value) is int or (type(value) is float and name not in _WHOLE)
        if not (is_plain and low <= value <= high):
            _check_number(name, value)
    _check_bias(params.logit_bias)
    _check_breakers(params.dry_sequence_breakers)
    for name in ("ignore_eos", "infill"):
        if not isinstance(getattr(params, name), bool):
            raise InvalidRequest(f"{name} must be true or false")
    if params.grammar is not None and not isinstance(params.grammar, (str, Grammar)):
        raise InvalidRequest("grammar must be GBNF text or a Grammar")


def _check_number(name: str, value: object) -> None:
    if value is None and name in ("seed", "logprobs"):
        return
    whole = name in _WHOLE
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        kind = "a whole number" if whole else "a number"
        raise InvalidRequest(f"{name} must be {kind}, not {type(value).__name__}")
    low, high = _RANGES[name]
    if not low <= value <= high:  # also refuses NaN
        raise InvalidRequest(f"{name} must be between {low:g} and {high:g}, not {value!r}")


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
