"""The body of a chat completion, and the request that it becomes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from samovar.api.openai.checks import MAX_NAME, BadField
from samovar.api.openai.generation import ACCEPTED, GenerationFields, Name, common, max_tokens_of
from samovar.api.openai.grammars import grammar_of
from samovar.api.openai.messages import ChatMessage, messages_of
from samovar.api.openai.sampling import sampling_of
from samovar.api.openai.tools import FunctionCall, Functions, Tools, ToolWish, tools_of, wish_of
from samovar.types import Chat, GenerateRequest

ACCEPTED_OF_CHAT = ACCEPTED | {"modalities"}

_MAX_MESSAGES = 16384  # longer conversations fit into no context
MAX_RULES = 64  # more than there are
_MAX_LOGPROBS = 32  # alternatives, as many as the sampler reports

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
_REFUSED = {
    "audio": "this server answers in text only; leave it out",
    "web_search_options": "this server does not search; leave it out",
}


class Reasoning(BaseModel):
    """OpenRouter's form of how much to reason."""

    model_config = ConfigDict(extra="allow")

    enabled: bool | None = None
    effort: Effort | None = None
    max_tokens: int | None = None


class ChatRequest(GenerationFields):
    """The body of /v1/chat/completions. Unknown fields are ignored, and told in a header."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=_MAX_MESSAGES)]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MAX_LOGPROBS)] | None = None
    tools: Tools | None = None
    tool_choice: ToolWish | None = None
    parallel_tool_calls: bool | None = None
    functions: Functions | None = None
    function_call: FunctionCall | None = None
    modalities: list[str] | None = None
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | None = None
    reasoning_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None, validation_alias=AliasChoices("reasoning_tokens", "thinking_budget_tokens")
    )
    """Most tokens of reasoning; then the answer has to begin."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Further variables of the model's template."""
    continue_final_message: bool | None = None
    """The last message is the beginning of the answer, which goes on behind it."""
    tool_parser: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    """How to read what the model writes, where its template does not tell."""

    replays: bool | None = None
    """Whether a turn that was generated here comes back as the tokens that it was; true."""
    volatile: Annotated[list[Name], Field(max_length=MAX_RULES)] | None = None
    """Rules that hold prompts still (see docs/stability.md)."""

    @property
    def wants_functions(self) -> bool:
        """Whether calls are wanted in the form that came before tools."""
        return self.functions is not None and self.tools is None


def decode_chat(body: ChatRequest, request_id: str, tenant: str) -> GenerateRequest:
    """The request. Raises InvalidRequest and BadField, with what is wrong and what to do."""
    _refuse_what_is_not_text(body)
    logprobs = _logprobs(body)
    limit = body.max_completion_tokens
    name = "max_tokens" if limit is None else "max_completion_tokens"
    limit = body.max_tokens if limit is None else limit
    return GenerateRequest(
        request_id,
        "",
        sampling=sampling_of(body, grammar_of(body), logprobs),
        max_tokens=max_tokens_of(limit, name),
        chat=_chat(body),
        **common(body, tenant),
    )


def _chat(body: ChatRequest) -> Chat:
    tools = tools_of(body.tools, body.functions)
    choice, tools = wish_of(
        body.tool_choice,
        body.function_call,
        tools,
        is_parallel=body.parallel_tool_calls is not False and not body.wants_functions,
    )
    effort, thinks, budget = _reasoning(body)
    variables = dict(body.chat_template_kwargs or {})
    if effort not in (None, "none"):
        variables.setdefault("reasoning_effort", effort)
    return Chat(
        messages=messages_of(body.messages),
        tools=tools,
        tool_choice=choice,
        thinks=thinks,
        reasoning_tokens=budget,
        variables=variables,
        continues_last=bool(body.continue_final_message),
        family=body.tool_parser,
        replays=body.replays,
        volatile=None if body.volatile is None else tuple(body.volatile),
    )


def _reasoning(body: ChatRequest) -> tuple[Effort | None, bool | None, int | None]:
    """The effort, whether to reason at all, and most tokens of it."""
    other = body.reasoning or Reasoning()
    effort = body.reasoning_effort or other.effort
    budget = other.max_tokens if body.reasoning_tokens is None else body.reasoning_tokens
    if effort is not None:
        return effort, effort != "none", budget
    return None, other.enabled, budget


def _logprobs(body: ChatRequest) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise BadField("top_logprobs", "needs logprobs to be true")
    return None


def _refuse_what_is_not_text(body: ChatRequest) -> None:
    if set(body.modalities or ()) - {"text"}:
        raise BadField("modalities", "this server answers in text only")
    for name, message in _REFUSED.items():
        if (body.model_extra or {}).get(name) is not None:
            raise BadField(name, message)
