"""Fields that say what the text must be: OpenAI's response_format, and what local servers take."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from samovar.api.openai.checks import BadField
from samovar.types import Grammar, GrammarKind

_MAX_SOURCE = 2**20  # characters: far more than compiles within the limits for grammars
_MAX_CHOICES = 4096  # texts to choose from

Source = Annotated[str, Field(max_length=_MAX_SOURCE)]
Texts = Annotated[list[str], Field(min_length=1, max_length=_MAX_CHOICES)]
Schema = dict[str, Any] | bool


class NamedSchema(BaseModel):
    """A schema with what OpenAI puts around it. It holds whether `strict` or not."""

    model_config = ConfigDict(extra="allow")

    name: str | None = None
    strict: bool | None = None
    content: Schema | None = Field(None, alias="schema")


class ResponseFormat(BaseModel):
    """What form the answer has."""

    model_config = ConfigDict(extra="allow")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    content: Schema | None = Field(None, alias="schema")
    """Where others than OpenAI put the schema."""


class StructuredOutputs(BaseModel):
    """vLLM's form of the same."""

    model_config = ConfigDict(extra="allow")

    json_: Schema | Source | None = Field(None, alias="json")
    regex: Source | None = None
    choice: Texts | None = None
    grammar: Source | None = None
    json_object: bool | None = None


class GrammarFields(BaseModel):
    """At most one of them may be given."""

    model_config = ConfigDict(extra="allow")

    response_format: ResponseFormat | None = None
    grammar: Source | None = Field(None, validation_alias=AliasChoices("grammar", "guided_grammar"))
    """GBNF."""
    lark: Source | None = None
    regex: Source | None = Field(None, validation_alias=AliasChoices("regex", "guided_regex"))
    choice: Texts | None = Field(None, validation_alias=AliasChoices("choice", "guided_choice"))
    json_schema: Schema | Source | None = Field(
        None, validation_alias=AliasChoices("json_schema", "guided_json")
    )
    structured_outputs: StructuredOutputs | None = None


def grammar_of(body: GrammarFields) -> Grammar | None:
    """What the text must be; None: anything. Raises BadField for two wishes, or half of one."""
    found = {
        "response_format": _of_format(body.response_format),
        "grammar": _source("gbnf", body.grammar),
        "lark": _source("lark", body.lark),
        "regex": _source("regex", body.regex),
        "choice": _choice(body.choice),
        "json_schema": schema_grammar(body.json_schema, "json_schema"),
        "structured_outputs": _of_outputs(body.structured_outputs),
    }
    wanted = [name for name, grammar in found.items() if grammar is not None]
    if len(wanted) > 1:
        raise BadField(wanted[1], f"cannot be had together with {wanted[0]}; send one of them")
    return found[wanted[0]] if wanted else None


def schema_grammar(schema: Schema | str | None, param: str) -> Grammar | None:
    """JSON that fits a schema, which may be JSON text itself. Raises BadField."""
    if schema is None:
        return None
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            raise BadField(param, "must be a JSON schema") from None
    return Grammar("json_schema", msgspec.json.encode(schema).decode())


def _of_format(given: ResponseFormat | None) -> Grammar | None:
    if given is None or given.type == "text":
        return None
    named = given.json_schema
    schema = given.content if named is None or named.content is None else named.content
    if schema is not None:
        return schema_grammar(schema, "response_format")
    if given.type == "json_schema":
        raise BadField("response_format.json_schema.schema", "it is needed")
    return Grammar("json_object")


def _of_outputs(given: StructuredOutputs | None) -> Grammar | None:
    if given is None:
        return None
    fields = GrammarFields.model_construct(
        grammar=given.grammar, regex=given.regex, choice=given.choice, json_schema=given.json_
    )
    found = grammar_of(fields)
    return Grammar("json_object") if found is None and given.json_object else found


def _source(kind: GrammarKind, text: str | None) -> Grammar | None:
    return None if text is None else Grammar(kind, text)


def _choice(texts: list[str] | None) -> Grammar | None:
    return None if texts is None else Grammar("choice", msgspec.json.encode(texts).decode())
