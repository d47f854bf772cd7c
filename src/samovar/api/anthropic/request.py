"""A body of `/v1/messages` as a request of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from samovar.api.anthropic.conversation import Conversation
from samovar.api.anthropic.schema import (
    ConversationFields,
    MessagesFields,
    ThinkingFields,
    ToolFields,
)
from samovar.api.anthropic.signing import Signer
from samovar.errors import InvalidRequest
from samovar.types import (
    Chat,
    GenerateRequest,
    Grammar,
    SamplingParams,
    Tool,
    ToolChoice,
)

USUAL = SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
"""Where a request says nothing: what local servers do. Anthropic's temperature of 1 without any cut
is for models a hundred times the size."""

_VOLATILE = ("billing",)
"""Claude Code puts a line in front that is another one each time, and no part of the prompt."""

_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
"""Anthropic's words, and those that templates know."""

_MODES: dict[str, ToolChoice] = {
    "auto": ToolChoice(),
    "any": ToolChoice("required"),
    "tool": ToolChoice("required"),
    "none": ToolChoice("none"),
}


def chat_of(body: ConversationFields, signer: Signer, usual: Sequence[str] = ()) -> Chat:
    """The conversation. Raises InvalidRequest for what cannot be served, naming its place.

    `usual`: volatile rules of the server's, besides this dialect's own, where the body names none.
    """
    _refuse_servers(body)
    messages = Conversation(signer).read(body.messages, body.system)
    tools = tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or ()))
    thinking, effort = body.thinking, body.output_config and body.output_config.effort
    return Chat(
        tuple(messages),
        tools=tools,
        tool_choice=_choice(body, tools),
        thinks=_thinks(thinking),
        reasoning_tokens=thinking.budget_tokens if thinking and _thinks(thinking) else None,
        variables={"reasoning_effort": _EFFORTS[effort]} if effort else {},
        continues_last=messages[-1]["role"] == "assistant",
        replays=body.replays,
        volatile=tuple(dict.fromkeys([*_VOLATILE, *usual]))
        if body.volatile is None
        else tuple(body.volatile),
    )


def request_of(
    body: MessagesFields, signer: Signer, request_id: str, tenant: str, usual: Sequence[str] = ()
) -> GenerateRequest:
    """The whole request. `tenant` is the owner of the key; `usual` as in `chat_of`.

    Raises InvalidRequest.

    What was computed for one user of a key serves the others, unless a salt keeps them apart:
    agents send another user_id in every session.
    """
    user = body.metadata and body.metadata.user_id
    return GenerateRequest(
        request_id,
        "",
        chat=chat_of(body, signer, usual),
        sampling=_sampling(body),
        max_tokens=body.max_tokens or None,
        prefill_only=body.max_tokens == 0,
        stop=tuple(body.stop_sequences or ()),
        tenant=_within(tenant, f"user/{_short(user)}") if user else tenant,
        cache_salt=salt_of(body, tenant),
        is_stored=not body.no_store,
        adapters=tuple((body.adapters or {}).items()),
    )


def salt_of(body: ConversationFields, tenant: str) -> str:
    """With whom a request shares what is computed and remembered."""
    return _within(tenant, f"salt/{body.cache_salt}") if body.cache_salt else tenant


def _sampling(body: MessagesFields) -> SamplingParams:
    said = {name: getattr(body, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    given: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    return replace(USUAL, grammar=_grammar(body), seed=body.seed, **given)


def _grammar(body: MessagesFields) -> Grammar | None:
    wanted = (body.output_config and body.output_config.format) or body.output_format
    if wanted is None:
        return None
    return Grammar("json_schema", msgspec.json.encode(wanted.json_schema).decode())


def _thinks(thinking: ThinkingFields | None) -> bool | None:
    """Who says nothing gets what the model's template does."""
    return None if thinking is None else thinking.type in ("enabled", "adaptive")


def _tool(tool: ToolFields, where: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise InvalidRequest(
            f"{where}: tools of Anthropic's own are unknown here; describe it as a tool of type"
            " custom, with its input_schema"
        )
    if tool.input_schema is None:
        raise InvalidRequest(f"{where}.input_schema: Field required")
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _choice(body: ConversationFields, tools: tuple[Tool, ...]) -> ToolChoice:
    said = body.tool_choice
    if said is None:
        return ToolChoice()
    is_parallel = not said.disable_parallel_tool_use
    if said.type == "tool" and said.name not in [one["function"]["name"] for one in tools]:
        raise InvalidRequest("tool_choice.name: must name one of the tools")
    if said.type == "any" and not tools:
        raise InvalidRequest("tool_choice: there are no tools to choose from; give some")
    name = said.name if said.type == "tool" else None
    return replace(_MODES[said.type], name=name, is_parallel=is_parallel)


def _refuse_servers(body: ConversationFields) -> None:
    if body.mcp_servers:
        raise InvalidRequest("mcp_servers: the server calls none; let the client call their tools")
    if body.container is not None:
        raise InvalidRequest("container: there are no containers; leave it out")


def _within(tenant: str, name: str) -> str:
    """A name that a tenant chose, such that no other tenant can mean the same by any name."""
    return f"{len(tenant)}:{tenant}/{name}"


def _short(user: str) -> str:
    """Agents write much into it, and it is nobody's business elsewhere."""
    return hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()[:16]
