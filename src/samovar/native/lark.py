"""Every kind of grammar as Lark text, the one form that llguidance compiles here.

JSON schemas stand in it behind `%json`, in a grammar that is nothing else as in one that a client
wrote around them. They are read strictly, and where that cannot be, once more leniently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import llguidance

from samovar.errors import GrammarRejected
from samovar.native import gbnf
from samovar.native.json_schema import Schema, parse
from samovar.types import Grammar

MAX_GRAMMAR_BYTES = 256 * 1024
"""Larger grammars and expressions take seconds to convert; real ones are a few kilobytes."""
MAX_JSON_BYTES = 1024 * 1024
"""Schemas and lists of choices, also all schemas of one Lark text together."""

# Its time grows with the square of the items in a row of the parser: with the 2,000 it allows by
# itself, an ambiguous grammar takes over a second per token, with 500 0.03 s. JSON is never that
# ambiguous, and each optional property takes four items.
_ROW, _ROW_WITH_JSON, _ROW_OF_JSON = 500, 1000, 5000


@dataclass(frozen=True, slots=True)
class Lark:
    """A grammar for llguidance to compile."""

    strict: str
    lenient: str | None = None
    """The same, with what is not supported in JSON schemas left out; None: nothing could be."""
    notes: tuple[str, ...] = ()
    """What even the strict one does not hold exactly."""
    max_row: int = _ROW
    """Items in a row of its parser."""
    names_tokens: bool = False
    """Whether control tokens may be named in it."""


def to_lark(grammar: Grammar) -> Lark:
    """Lark text for a grammar of any kind. Raises GrammarRejected for what is too much or wrong."""
    source = grammar.source
    size = len(source.encode("utf-8", "surrogatepass"))
    limit = MAX_GRAMMAR_BYTES if grammar.kind in ("gbnf", "regex") else MAX_JSON_BYTES
    if size > limit:
        raise GrammarRejected(f"the grammar has {size} bytes, more than {limit}; make it smaller")
    _require_text(source)
    lark = _READERS[grammar.kind](source)
    _require_text(lark.strict)  # escapes may have become characters
    return lark


def answer_text(grammar: str | Grammar) -> str:
    """Lark text of a grammar, to be put into another one. Raises as `to_lark` does."""
    if isinstance(grammar, str):
        grammar = Grammar("gbnf", grammar)
    match grammar.kind:
        case "json_schema":
            return f"start: %json {grammar.source}"
        case "json_object":
            return 'start: %json {"type": "object"}'
        case "lark":
            return grammar.source
    return to_lark(grammar).strict


def _require_text(text: str) -> None:
    if "\x00" in text:
        raise GrammarRejected("the grammar holds a NUL character; remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise GrammarRejected("the grammar holds half of a surrogate pair; remove it") from None


def _from_gbnf(source: str) -> Lark:
    return Lark(gbnf.to_lark(source))


def _from_regex(source: str) -> Lark:
    return Lark(f"start: /{llguidance.regex_to_lark(source, 'd')}/")  # d: digits are 0 to 9


def _from_choice(source: str) -> Lark:
    try:
        texts = json.loads(source)
    except (ValueError, RecursionError):
        texts = None
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise GrammarRejected("the choice is no JSON array of texts; give at least one text")
    # In upper case: one lexeme, however many there are.
    literals = "|".join(json.dumps(text, ensure_ascii=False) for text in dict.fromkeys(texts))
    literals = literals.replace("\x7f", "\\u007f")  # which Lark texts may not hold
    return Lark(f"start: CHOICE\nCHOICE: {literals}")


def _from_object(_source: str) -> Lark:
    return _from_schema('{"type": "object"}')


def _from_schema(source: str) -> Lark:
    schema = parse(source)
    return Lark(
        f"start: %json {schema.embedded()}",
        f"start: %json {schema.embedded(is_lenient=True)}",
        schema.notes,
        _ROW_OF_JSON,
    )


# ---- Lark text of a client ----------------------------------------------------------------------

_WORD = re.compile(
    r'"(?:\\.|[^"\\\n])*"?i?|/(?![/*])(?:\\.|[^/\\\n])+/|(?://|#)[^\n]*|%json\b|[()\[\]{}<]|:',
    re.DOTALL,
)
"""A literal, an expression, a comment, what stands before a schema, a bracket, what begins a rule.
"""


def _from_lark(source: str) -> Lark:
    schemas, parts = _cut_schemas(source)
    around = "".join(parts)
    if len(around.encode()) > MAX_GRAMMAR_BYTES:
        raise GrammarRejected(
            f"the grammar has more than {MAX_GRAMMAR_BYTES} bytes besides its schemas; make it"
            " smaller"
        )
    _check_shape(around)
    names_tokens = any(word[0] == "<" for word in _WORD.finditer(around))
    if not schemas:
        return Lark(source, names_tokens=names_tokens)

    def joined(write: Callable[[Schema], str]) -> str:
        texts = [f"{part}%json {write(one)}" for part, one in zip(parts, schemas, strict=False)]
        return "".join([*texts, parts[-1]])

    return Lark(
        joined(lambda one: one.embedded()),
        joined(lambda one: one.embedded(is_lenient=True)),
        tuple(dict.fromkeys(note for one in schemas for note in one.notes)),
        _ROW_WITH_JSON,
        names_tokens,
    )


def _cut_schemas(source: str) -> tuple[list[Schema], list[str]]:
    """The schemas in a Lark text, and the text before each and after the last."""
    schemas, parts, start, position = [], [], 0, 0
    while word := _WORD.search(source, position):
        position = word.end()
        if word[0] != "%json":
            continue
        parts.append(source[start : word.start()])
        while source[position : position + 1].isspace():
            position += 1
        try:
            _, position = json.JSONDecoder().raw_decode(source, position)
        except (ValueError, RecursionError):
            line = source.count("\n", 0, word.start()) + 1
            raise GrammarRejected(
                f"what follows %json in line {line} is no JSON schema; correct it"
            ) from None
        schemas.append(parse(source[word.end() : position]))
        start = position
    return schemas, [*parts, source[start:]]


def _check_shape(around: str) -> None:
    """Refuse brackets and rules that nest too deeply. Every colon counts as a rule."""
    rules = depth = deepest = nested = 0
    for word in _WORD.finditer(around):
        match word[0]:
            case "(" | "[" | "{":
                depth += 1
                deepest, nested = max(deepest, depth), nested + 1
            case ")" | "]" | "}":
                depth = max(0, depth - 1)
            case ":":
                rules += 1
    gbnf.check_depth(rules, min(nested, rules * deepest), deepest)


_READERS: dict[str, Callable[[str], Lark]] = {
    "gbnf": _from_gbnf,
    "lark": _from_lark,
    "regex": _from_regex,
    "choice": _from_choice,
    "json_object": _from_object,
    "json_schema": _from_schema,
}
