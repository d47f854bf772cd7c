"""The body of `POST /v1/responses`. null is as good as nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from samovar.api.openai.chat_request import MAX_RULES, Effort
from samovar.api.openai.checks import MAX_NAME
from samovar.api.openai.generation import GenerationFields, Name
from samovar.api.openai.responses.tools import Wish
from samovar.api.openai.tools import Mode, Tools

ACCEPTED_OF_RESPONSES = frozenset({"context_management", "stream_options", "image"})
"""Fields of OpenAI's that change nothing here, besides those that chats have as well."""

MAX_TOP_LOGPROBS = 20  # as many as OpenAI gives

Short = Annotated[str, Field(max_length=MAX_NAME)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
"""Kept with the response; OpenAI's bounds."""


class Format(BaseModel):
    """What form the answer has."""

    model_config = ConfigDict(extra="allow")

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    content: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class Text(BaseModel):
    """What is said of the text of the answer."""

    model_config = ConfigDict(extra="allow")

    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningFields(BaseModel):
    """How much to think, and what is told of it."""

    model_config = ConfigDict(extra="allow")

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = Field(
        default=None, validation_alias=AliasChoices("summary", "generate_summary")
    )
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens of reasoning; ours."""


class ResponsesBody(GenerationFields):
    """Everything that can be asked, OpenAI's fields and ours."""

    input: str | list[Any] | None = None
    instructions: str | None = None
    previous_response_id: Short | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
    store: bool | None = None
    tools: Tools | None = None
    tool_choice: Mode | Wish | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    text: Text | None = None
    reasoning: ReasoningFields | None = None
    max_output_tokens: int | None = Field(
        default=None,
        validation_alias=AliasChoices("max_output_tokens", "max_completion_tokens", "max_tokens"),
    )
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    include: Annotated[list[Short], Field(max_length=64)] | None = None
    metadata: Metadata | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: Short | None = None
    safety_identifier: Short | None = None
    prompt_cache_key: Short | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Further variables of the model's template; ours, and vLLM's."""
    replays: bool | None = None
    volatile: Annotated[list[Name], Field(max_length=MAX_RULES)] | None = None
    """Both as in chats; ours."""
