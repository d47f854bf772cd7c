"""Fields that say how to pick tokens: OpenAI's, and those that local servers add to them.

Who says nothing gets what local servers usually do, and not OpenAI's temperature of 1 without any
cut: small models lose themselves in that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from samovar.api.openai.checks import BadField
from samovar.errors import InvalidRequest
from samovar.types import Grammar, SamplingParams

USUAL = SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
"""What holds where a request says nothing."""

_MAX_BIASES = 2**18  # as many as the largest vocabularies have tokens


class SamplingFields(BaseModel):
    """Everything of them; null is as good as nothing."""

    model_config = ConfigDict(extra="allow")

    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Annotated[dict[int, float], Field(max_length=_MAX_BIASES)] | None = None
    seed: int | None = None

    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    repeat_penalty: float | None = Field(
        None, validation_alias=AliasChoices("repeat_penalty", "repetition_penalty")
    )
    penalty_last_n: int | None = Field(
        None, validation_alias=AliasChoices("penalty_last_n", "repeat_last_n")
    )
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None


def sampling_of(
    body: SamplingFields, grammar: Grammar | None = None, logprobs: int | None = None
) -> SamplingParams:
    """How to pick tokens. Raises BadField for what no sampler can do."""
    said = {name: getattr(body, name) for name in SamplingFields.model_fields}
    given: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if "seed" in given:
        given["seed"] %= 2**64  # OpenAI's seeds may be negative
    if "dry_sequence_breakers" in given:
        given["dry_sequence_breakers"] = tuple(given["dry_sequence_breakers"])
    try:
        return replace(USUAL, grammar=grammar, logprobs=logprobs, **given)
    except InvalidRequest as error:
        name = str(error).partition(" ")[0]
        if name in SamplingFields.model_fields:
            raise BadField(name, str(error).removeprefix(f"{name} ")) from None
        raise
