"""A body as what is asked of a model, and as what the response says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from samovar.api.openai.checks import BadField
from samovar.api.openai.generation import common, max_tokens_of
from samovar.api.openai.grammars import grammar_of, schema_grammar
from samovar.api.openai.responses.items import Find, Ids, Item, input_items
from samovar.api.openai.responses.prompt import messages_of
from samovar.api.openai.responses.schema import Format, ReasoningFields, ResponsesBody, Text
from samovar.api.openai.responses.tools import Offered, Wish, offered, wish_of
from samovar.api.openai.responses.turn import Head
from samovar.api.openai.sampling import sampling_of
from samovar.api.openai.tools import Mode
from samovar.types import Chat, GenerateRequest, Grammar, SamplingParams

LOGPROBS = "message.output_text.logprobs"
SEALED_REASONING = "reasoning.encrypted_content"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a request is decoded in."""

    response_id: str
    model: str
    """As the client calls it."""
    tenant: str
    created_at: int
    """Seconds since 1970."""
    new_id: Ids
    find: Find
    """Among the items that are kept."""
    earlier: tuple[Item, ...] = ()
    """The conversation up to and with the previous response."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, decoded."""

    request: GenerateRequest
    head: Head
    context: tuple[Item, ...]
    """Everything that is answered: the conversation before, and what was sent."""
    is_streamed: bool
    is_kept: bool
    """The response can be asked for later, and continued."""
    is_background: bool
    truncates: bool
    """Rather than to refuse what is too long, leave the oldest out."""
    left_out: tuple[str, ...] = ()
    """Tools that the model is not offered: `tools[2].web_search`."""


def decode(body: ResponsesBody, setting: Setting) -> Asked:
    """What is asked. Raises InvalidRequest and BadField, before anything is computed."""
    _refuse_unsupported(body)
    if body.input is None:
        raise BadField("input", "it is needed")
    own = input_items(body.input, setting.new_id, setting.find)
    context = setting.earlier + own
    if not context:
        raise BadField("input", "it is empty; send some text or items")
    tools = offered(body.tools or ())
    sampling = sampling_of(body, _grammar(body), _logprobs(body))
    request = GenerateRequest(
        setting.response_id,
        "",
        sampling=sampling,
        max_tokens=max_tokens_of(body.max_output_tokens, "max_output_tokens"),
        chat=_chat(body, context, tools),
        **common(body, setting.tenant),
    )
    return Asked(
        request,
        _head(body, setting, sampling, tools),
        context,
        is_streamed=bool(body.stream),
        is_kept=body.store is not False,
        is_background=bool(body.background),
        truncates=body.truncation == "auto",
        left_out=tuple(tools.left_out),
    )


def _refuse_unsupported(body: ResponsesBody) -> None:
    if body.conversation is not None:
        raise BadField("conversation", "none are kept here; use previous_response_id")
    if body.prompt is not None:
        raise BadField("prompt", "none are kept here; send the text as instructions and input")
    if body.n is not None and body.n > 1:
        raise BadField("n", "a response is one answer; send several requests")
    if body.background and body.store is False:
        raise BadField("background", "needs the response to be kept; leave store out")


# ---- what is asked -------------------------------------------------------------------------------


def _chat(body: ResponsesBody, context: tuple[Item, ...], tools: Offered) -> Chat:
    reasoning = body.reasoning or ReasoningFields()
    choice, left = wish_of(
        body.tool_choice,
        tools.tools,
        is_parallel=body.parallel_tool_calls is not False,
    )
    variables = dict(body.chat_template_kwargs or {})
    if reasoning.effort not in (None, "none"):
        variables.setdefault("reasoning_effort", reasoning.effort)
    return Chat(
        messages_of(body.instructions, context),
        tools=left,
        tool_choice=choice,
        thinks=None if reasoning.effort is None else reasoning.effort != "none",
        reasoning_tokens=reasoning.max_tokens,
        variables=variables,
        replays=body.replays,
        volatile=None if body.volatile is None else tuple(body.volatile),
    )


def _grammar(body: ResponsesBody) -> Grammar | None:
    wanted = None if body.text is None or body.text.format is None else _of_format(body.text.format)
    other = grammar_of(body)
    if wanted is not None and other is not None:
        raise BadField("text.format", "cannot be had together with another grammar; send one")
    return wanted or other


def _of_format(given: Format) -> Grammar | None:
    if given.type == "text":
        return None
    if given.type == "json_object":
        return Grammar("json_object")
    if given.content is None:
        raise BadField("text.format.schema", "it is needed")
    return schema_grammar(given.content, "text.format.schema")


def _has_logprobs(body: ResponsesBody) -> bool:
    return bool(body.top_logprobs) or LOGPROBS in (body.include or ())


def _logprobs(body: ResponsesBody) -> int | None:
    return (body.top_logprobs or 0) if _has_logprobs(body) else None


# ---- what the response says of it ----------------------------------------------------------------


def _head(body: ResponsesBody, setting: Setting, sampling: SamplingParams, tools: Offered) -> Head:
    reasoning = body.reasoning or ReasoningFields()
    return Head(
        setting.response_id,
        setting.created_at,
        {"model": setting.model, "tools": tools.shown, **_echo(body, sampling, reasoning)},
        namespaces=tools.namespaces,
        customs=tools.customs,
        has_summary=reasoning.summary is not None,
        is_sealed=SEALED_REASONING in (body.include or ()),
        has_logprobs=_has_logprobs(body),
    )


def _echo(
    body: ResponsesBody, sampling: SamplingParams, reasoning: ReasoningFields
) -> dict[str, Any]:
    return {
        "instructions": body.instructions,
        "previous_response_id": body.previous_response_id,
        "conversation": None,
        "background": bool(body.background),
        "store": body.store is not False,
        "tool_choice": _choice_echo(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "max_tool_calls": body.max_tool_calls,
        "max_output_tokens": body.max_output_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_logprobs": body.top_logprobs or 0,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "text": _text_echo(body.text or Text()),
        "truncation": body.truncation or "disabled",
        "metadata": body.metadata or {},
        "service_tier": "default",
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
        "user": body.user,
    }


def _choice_echo(wish: Mode | Wish | None) -> str | dict[str, Any]:
    if isinstance(wish, Wish):
        return wish.model_dump(exclude_none=True)
    return wish or "auto"


def _text_echo(text: Text) -> dict[str, Any]:
    given = text.format or Format()
    shown: dict[str, Any] = {"type": given.type}
    if given.type == "json_schema":
        shown |= {
            "name": given.name or "schema",
            "description": given.description,
            "schema": given.content,
            "strict": given.strict,
        }
    return {"format": shown, "verbosity": text.verbosity or "medium"}
