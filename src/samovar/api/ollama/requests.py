"""The bodies of Ollama's routes for text, and the requests that they become.

Fields that nobody knows are ignored, as Ollama does; null is as good as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from samovar.api.ollama.keeping import Keep, keep_of
from samovar.api.ollama.messages import NO_IMAGES, decode_messages, decode_tools
from samovar.api.ollama.options import MAX_NAME, Options, sampling_of
from samovar.errors import InvalidRequest
from samovar.types import Chat, GenerateRequest, Grammar, SamplingParams, Tool, ToolChoice

_LEVELS = ("low", "medium", "high")
_LOGPROBS = 20  # alternatives of a token, at most, as in Ollama
_IDS = 2**22  # of a context that comes back; no model has a longer one

ModelName = Annotated[
    str,
    Field(min_length=1, max_length=MAX_NAME, validation_alias=AliasChoices("model", "name")),
]


class OfModel(BaseModel):
    """Which model is meant."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: ModelName


class Kept(OfModel):
    """A body that may say how long the model stays."""

    options: Options | None = None
    keep_alive: float | str | None = None

    @property
    def keep(self) -> Keep | None:
        """What was said of it. Raises InvalidRequest."""
        return keep_of(self.keep_alive)


class TextBody(Kept):
    """What requests for text have in common."""

    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_LOGPROBS)] | None = None

    @property
    def is_streamed(self) -> bool:
        """Whether the answer comes in pieces: unless something else was said."""
        return self.stream is not False

    @property
    def thinks(self) -> bool | None:
        """Whether to reason; None: nothing was said."""
        return self.think if isinstance(self.think, bool | None) else True

    @property
    def variables(self) -> dict[str, Any]:
        """What the template may want to know besides."""
        return {"reasoning_effort": self.think} if self.think in _LEVELS else {}

    @property
    def sampling(self) -> SamplingParams:
        """How to pick tokens. Raises InvalidRequest."""
        alternatives = (self.top_logprobs or 0) if self.logprobs else None
        return sampling_of(self.options or Options(), grammar_of(self.format), alternatives)


class ChatBody(TextBody):
    """The body of /api/chat."""

    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None


class GenerateBody(TextBody):
    """The body of /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=_IDS)] | None = None
    raw: bool | None = None
    images: list[Any] | None = None


def grammar_of(form: str | Mapping[str, Any] | None) -> Grammar | None:
    """What the answer must be: JSON, or JSON of a schema."""
    if not form and not isinstance(form, Mapping):
        return None
    if isinstance(form, Mapping):
        return Grammar("json_schema", msgspec.json.encode(form).decode())
    return Grammar("json_object")


def chat_request(body: ChatBody, request_id: str, tenant: str) -> GenerateRequest:
    """The request of a conversation. Raises InvalidRequest."""
    options, tools = body.options or Options(), decode_tools(body.tools)
    chat = Chat(
        decode_messages(body.messages or ()),
        tools=tools,
        tool_choice=_choice(options.tool_choice, tools),
        thinks=body.thinks,
        reasoning_tokens=options.reasoning_tokens,
        variables=body.variables,
        replays=options.replays,
        volatile=None if options.volatile is None else tuple(options.volatile),
    )
    return text_request(body, request_id, tenant, chat)


def _choice(wish: str | None, tools: tuple[Tool, ...]) -> ToolChoice:
    if wish is None or wish in ("auto", "none"):
        return ToolChoice() if wish != "none" else ToolChoice("none")
    if wish == "required" and tools:
        return ToolChoice("required")
    if wish not in [one.get("function", {}).get("name") for one in tools]:
        raise InvalidRequest(
            "options.tool_choice: demands a call of a tool that is not there; send the tool, or"
            " say auto or none"
        )
    return ToolChoice("required", name=wish)


def text_request(
    body: TextBody,
    request_id: str,
    tenant: str,
    prompt: Chat | str | tuple[int, ...],
) -> GenerateRequest:
    """The request of a prompt in any form. Raises InvalidRequest."""
    options = body.options or Options()
    return GenerateRequest(
        request_id,
        "" if isinstance(prompt, Chat) else prompt,
        sampling=body.sampling,
        max_tokens=options.max_tokens,
        stop=options.stops,
        tenant=tenant,
        chat=prompt if isinstance(prompt, Chat) else None,
    )


def generate_chat(body: GenerateBody) -> Chat:
    """A prompt as a conversation of one question."""
    system = [{"role": "system", "content": body.system}] if body.system else []
    question = {"role": "user", "content": body.prompt or ""}
    return Chat((*system, question), thinks=body.thinks, variables=body.variables)


def check_generate(body: GenerateBody, template: str | None) -> None:
    """Raises InvalidRequest for what does not go together, or is not done here.

    `template` is the model's own.
    """
    if body.images:
        raise InvalidRequest(f"images: {NO_IMAGES}")
    if body.template and body.template != template:
        raise InvalidRequest(
            "template: a model's template cannot be changed by a request; write the whole prompt"
            " and send it with raw: true"
        )
    if body.raw and (body.system or body.context or body.template):
        raise InvalidRequest("raw: goes without system, context and template; write them yourself")
    if body.suffix and (body.raw or body.context or body.system):
        raise InvalidRequest("suffix: goes without raw, context and system; leave those out")


def is_only_loading(body: GenerateBody) -> bool:
    """Whether nothing is asked but that the model be there, or go."""
    return not body.prompt and not body.suffix and not body.images
