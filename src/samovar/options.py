"""What can be said when a model is loaded or asked, and the request that it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, TypedDict

from samovar.types import (
    Chat,
    GenerateRequest,
    Grammar,
    Message,
    SamplingParams,
    Tool,
    ToolChoice,
)

Prompt = str | bytes | Sequence[int]
"""Text, or token ids."""


class LoadOptions(TypedDict, total=False):
    """How to load a model; see WorkerConfig for what each means."""

    context_length: int
    num_sequences: int
    kv_layout: Literal["auto", "lanes", "pool"]
    batch_size: int
    threads: int
    gpu_layers: int
    use_mmap: bool
    use_mlock: bool
    flash_attention: Literal["auto", "on", "off"]
    type_k: str
    type_v: str
    decode_seconds: float
    max_waiting: int
    is_deterministic: bool
    adapters: tuple[tuple[str, str], ...]


class Options(TypedDict, total=False):
    """How to answer: fields of GenerateRequest and SamplingParams, which say what each means."""

    sampling: SamplingParams
    max_tokens: int | None
    stop: str | Sequence[str]
    stop_tokens: Sequence[int]
    choices: int
    tenant: str
    priority: int
    timeout_seconds: float | None
    adapters: Sequence[tuple[str, float]]
    is_stored: bool
    cache_salt: str | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: dict[int, float]
    ignore_eos: bool
    min_tokens: int
    seed: int | None
    logprobs: int | None
    grammar: str | Grammar | None


class ChatOptions(Options, total=False):
    """The same, and how to read and answer a conversation: fields of Chat."""

    tools: Sequence[Tool]
    tool_choice: ToolChoice | Literal["auto", "required", "none"]
    thinks: bool | None
    reasoning_tokens: int | None
    variables: dict[str, Any]
    continues_last: bool
    family: str | None
    replays: bool
    volatile: Sequence[str]


class RenderOptions(TypedDict, total=False):
    """What decides the prompt that a conversation becomes."""

    tools: Sequence[Tool]
    thinks: bool | None
    variables: dict[str, Any]
    continues_last: bool


_SAMPLING = frozenset(one.name for one in fields(SamplingParams))
_CHAT = frozenset(one.name for one in fields(Chat))
_LISTS = frozenset({"tools", "volatile"})


def generate_request(
    request_id: str, prompt: Prompt, options: Options, defaults: Mapping[str, Any]
) -> GenerateRequest:
    """The request of a prompt and options. Raises InvalidRequest for values of no sense."""
    text = prompt if isinstance(prompt, (str, bytes)) else tuple(prompt)
    return GenerateRequest(request_id, text, **_fields({**defaults, **options}))


def chat_request(
    request_id: str,
    messages: Sequence[Message],
    options: ChatOptions,
    defaults: Mapping[str, Any],
) -> GenerateRequest:
    """The request of a conversation and options. Raises InvalidRequest for values of no sense."""
    given: dict[str, Any] = {**defaults, **options}
    wanted = {name: given.pop(name) for name in list(given) if name in _CHAT}
    for name in _LISTS & wanted.keys():
        wanted[name] = tuple(wanted[name] or ())
    if isinstance(wanted.get("tool_choice"), str):
        wanted["tool_choice"] = ToolChoice(wanted["tool_choice"])
    return GenerateRequest(request_id, "", chat=Chat(tuple(messages), **wanted), **_fields(given))


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of a request: what belongs to the sampling, in there."""
    sampling = given.pop("sampling", SamplingParams())
    chosen = {name: given.pop(name) for name in list(given) if name in _SAMPLING}
    if isinstance(given.get("stop"), str):  # its letters would be a sequence of texts, too
        given["stop"] = (given["stop"],)
    for name, value in given.items():
        given[name] = tuple(value) if isinstance(value, list) else value
    return {**given, "sampling": replace(sampling, **chosen)}
