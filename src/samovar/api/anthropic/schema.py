"""Bodies of requests as Anthropic's clients send them. What nothing here names is ignored."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from samovar.types import MAX_STOPS

MAX_MESSAGES = 100_000  # Anthropic's own bound
MAX_TOOLS = 4096  # of which a prompt of a million tokens would be full
MAX_ADAPTERS = 64  # named in one request; more than any model has loaded
MAX_IGNORED = 16  # names of unknown fields that are told: a header has to hold them
MAX_RULES = 64  # there are a few
MAX_NAME = 512  # characters of a model's, a user's or a salt's name: they become keys

Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Content = str | list[dict[str, Any]]
"""Text, or blocks; what a block may be depends on where it stands (see blocks)."""


class Fields(BaseModel):
    """An object of a body. Types are taken as they are: "1" is no number."""

    model_config = ConfigDict(extra="ignore", strict=True)


class CacheControl(Fields):
    """Where a client would like a prompt to be kept; here every prompt is, as a whole."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TurnFields(Fields):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: Content


class ToolFields(Fields):
    """A tool of the client's, or one that only Anthropic's servers know."""

    name: Name
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    cache_control: CacheControl | None = None


class ToolChoiceFields(Fields):
    """Which calls are wanted."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingFields(Fields):
    """Whether and how much to reason."""

    type: Literal["enabled", "adaptive", "disabled", "between_tools"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class FormatFields(Fields):
    """What the answer must be."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputFields(Fields):
    """How the answer shall be."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: FormatFields | None = None


class MetadataFields(Fields):
    """About the request."""

    user_id: Annotated[str, Field(max_length=MAX_NAME)] | None = None


class DiagnosticsFields(Fields):
    """The request before this one, to be told what changed since; null: there is none."""

    previous_message_id: str | None = None


class ConversationFields(Fields):
    """What becomes the prompt; the whole body of a request to count its tokens."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: Name
    messages: Annotated[list[TurnFields], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Content | None = None
    tools: Annotated[list[ToolFields], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceFields | None = None
    thinking: ThinkingFields | None = None
    output_config: OutputFields | None = None
    output_format: FormatFields | None = None
    """Where `output_config.format` was before it had that name."""
    cache_control: CacheControl | None = None
    mcp_servers: list[dict[str, Any]] | None = None
    container: str | dict[str, Any] | None = None
    volatile: Annotated[list[str], Field(max_length=MAX_RULES)] | None = None
    """Rules that hold prompts still (see docs/stability.md). No field of Anthropic's."""
    replays: bool | None = None
    """Turns that were generated here are the tokens that they were. No field of Anthropic's."""
    cache_salt: Name | None = None
    """Share what was computed with requests of the same salt only. No field of Anthropic's."""


class MessagesFields(ConversationFields):
    """A request for an answer; the last four are no fields of Anthropic's."""

    max_tokens: Annotated[int, Field(ge=0, lt=2**31)]
    """0: compute the prompt and answer nothing."""
    stream: bool | None = None
    stop_sequences: Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: MetadataFields | None = None
    diagnostics: DiagnosticsFields | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    no_store: bool = False
    """Keep nothing of it in the cache."""
    adapters: Annotated[dict[Name, float], Field(max_length=MAX_ADAPTERS)] | None = None
    """Names of loaded LoRA adapters with their scales."""


def ignored(body: ConversationFields) -> list[str]:
    """Names of fields that nobody knows: misspelt, or of another server. At most some."""
    unknown = (name for name in body.model_extra or {} if name not in _ACCEPTED)
    return [name for name in unknown if _NAME.fullmatch(name)][:MAX_IGNORED]


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}")
_ACCEPTED = frozenset(
    {
        "betas",
        "context_management",
        "inference_geo",
        "service_tier",
        "speed",
        "user_profile_id",
    }
)
"""Fields of Anthropic's that change nothing here, and that clients send by themselves."""
