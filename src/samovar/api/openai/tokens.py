"""Text to token ids and back: bodies that llama-server's clients and vLLM's send alike."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from samovar.api.openai.checks import MAX_NAME, BadField
from samovar.api.openai.messages import ChatMessage, messages_of
from samovar.api.openai.tools import Tools, tools_of

_MAX_TOKENS = 2**20  # ids of one body; more than any context holds


class TokenizeRequest(BaseModel):
    """The body of /tokenize: a text, or a conversation. Unknown fields are ignored."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    content: str | None = Field(None, validation_alias=AliasChoices("content", "prompt"))
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    """Tokenized as a chat completion would be."""
    tools: Tools | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special: bool = Field(
        default=True, validation_alias=AliasChoices("add_special", "add_special_tokens")
    )
    """Add what the model expects around a text, as a completion does."""
    parse_special: bool = False
    """Read control tokens that are written out in a text as such."""
    with_pieces: bool = Field(
        default=False, validation_alias=AliasChoices("with_pieces", "return_token_strs")
    )


class DetokenizeRequest(BaseModel):
    """The body of /detokenize. Unknown fields are ignored."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    tokens: Annotated[list[int], Field(max_length=_MAX_TOKENS)]


class Tokenized(msgspec.Struct, frozen=True):
    """The ids of a text."""

    model: str
    tokens: list[int]
    count: int
    max_model_len: int
    """Tokens of the longest sequence."""
    token_strs: list[str] | UnsetType = UNSET
    """What each stands for; U+FFFD for parts of a character."""


class Detokenized(msgspec.Struct, frozen=True):
    """The text of ids, under the names that the ones and the others look for."""

    model: str
    content: str
    prompt: str


def question_of(body: TokenizeRequest) -> tuple[str, dict[str, Any]]:
    """The operation of a worker that answers it, and its arguments. Raises BadField."""
    if (body.content is None) == (body.messages is None):
        raise BadField("content", "send a text as content, or messages, and not both")
    if body.content is not None:
        special = {"add_special": body.add_special, "parse_special": body.parse_special}
        return "tokenize", {"text": body.content, **special}
    return "render", {
        "messages": list(messages_of(body.messages or ())),
        "tools": list(tools_of(body.tools, None)),
        "variables": body.chat_template_kwargs or {},
    }


def tokenized_body(
    model: str, tokens: list[int], context_length: int, pieces: list[bytes] | None
) -> bytes:
    """The ids as a body."""
    texts = UNSET if pieces is None else [one.decode("utf-8", "replace") for one in pieces]
    return msgspec.json.encode(Tokenized(model, tokens, len(tokens), context_length, texts))


def detokenized_body(model: str, text: str) -> bytes:
    """The text as a body."""
    return msgspec.json.encode(Detokenized(model, text, text))
