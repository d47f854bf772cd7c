"""What requests for text have in common, whether of a chat or of a prompt."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from samovar.api.openai.checks import MAX_NAME, BadField
from samovar.api.openai.grammars import GrammarFields
from samovar.api.openai.sampling import SamplingFields
from samovar.types import MAX_CHOICES, MAX_STOP_LENGTH, MAX_STOPS

Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]

_MAX_ADAPTERS = 64  # named in one request; more than any model has loaded

ACCEPTED = frozenset(
    {
        "metadata",
        "moderation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
    }
)
"""Fields of OpenAI's that change nothing here, and that clients send by themselves."""


class StreamOptions(BaseModel):
    """What a stream holds besides."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = None


class GenerationFields(SamplingFields, GrammarFields):
    """The fields of every request for text. null is as good as nothing."""

    model: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=MAX_STOPS)] | None = None
    user: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    session_id: Name | None = None
    """Keep the sequence of this conversation in the context under a name."""
    cache_salt: Name | None = None
    """Share what was computed with requests of the same salt only."""
    no_store: bool | None = None
    """Keep nothing of it in the cache."""
    adapters: Annotated[dict[Name, float], Field(max_length=_MAX_ADAPTERS)] | None = Field(
        None, validation_alias=AliasChoices("adapters", "lora")
    )
    """Names of loaded LoRA adapters with their scales."""

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with what it took."""
        return bool(self.stream_options and self.stream_options.include_usage)


def common(body: GenerationFields, tenant: str) -> dict[str, Any]:
    """The fields of a GenerateRequest that do not depend on what is asked.

    `tenant` is the owner of the key. Its users share computing time fairly among each other, and
    what was computed for one of them serves the others, as far as no salt keeps them apart.
    """
    stop = body.stop
    return {
        "choices": body.n or 1,
        "stop": (stop,) if isinstance(stop, str) else tuple(stop or ()),
        "stop_tokens": tuple(body.stop_token_ids or ()),
        "tenant": within(tenant, body.user) if body.user else tenant,
        "session": within(tenant, body.session_id) if body.session_id else None,
        "cache_salt": within(tenant, body.cache_salt) if body.cache_salt else tenant,
        "is_stored": not body.no_store,
        "adapters": tuple((body.adapters or {}).items()),
    }


def within(tenant: str, name: str) -> str:
    """A name that a tenant chose, such that no other tenant can mean the same by any name."""
    return f"{len(tenant)}:{tenant}/{name}" if tenant else name


def max_tokens_of(value: int | None, param: str, least: int = 1) -> int | None:
    """The limit; None for none, which some clients write as -1. Raises BadField."""
    if value is None or value == -1:
        return None
    if value < least:
        raise BadField(param, f"must be {least} or more, or left out")
    return value
