"""Why a grammar is refused, or not followed to the letter: llguidance's words in ours.

One line that names what is wrong in the grammar and says what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from samovar.errors import GrammarRejected
from samovar.types import GrammarKind

_LENGTH = 200  # characters of a text of llguidance that are passed on

_NAMES: dict[GrammarKind, str] = {
    "gbnf": "the grammar",
    "lark": "the grammar",
    "regex": "the regular expression",
    "choice": "the choice",
    "json_object": "the grammar",
    "json_schema": "the JSON schema",
}

# Where it was found, in a text that holds lines of ours; and what it puts before the reason.
_PLACE = re.compile(r"^(?:at \d+\(\d+\): )?(?:failed to compile JSON schema: )?")
_LARK_PLACE = re.compile(r"^at (\d+)\(\d+\): ")
_LOOK_AROUND = re.compile(r"look-?arounds?\b|look-ahead|backreferences")

_Say = Callable[[re.Match[str]], str]

_REASONS: tuple[tuple[str, _Say], ...] = (
    (
        r'Unimplemented keys: \["(.*)"\]',
        lambda m: f"uses {_named(m[1])}, which is not supported; leave it out",
    ),
    (r"Unknown format: (.*)", lambda m: f"uses the format `{m[1]}`, which is not known"),
    (
        r"oneOf constraints are not supported",
        lambda _: "uses `oneOf` with alternatives that may overlap; use `anyOf`",
    ),
    (
        r"Pointer '(.*)' does not exist",
        lambda m: f"refers to `#{m[1]}`, which is not there; define it or correct the reference",
    ),
    (
        r"Resource '(.*?)' is not present",
        lambda m: f"refers to `{m[1]}`, and nothing is fetched; put it into $defs",
    ),
    (
        r"circular references with sibling keys are not supported: (?:json-schema:///)?(.*)",
        lambda m: f"has keywords beside a reference to itself, `{m[1]}`; put them elsewhere",
    ),
    (
        r"patternProperty regexes (.*) are not disjoint",
        lambda m: f"has overlapping `patternProperties`, {m[1]}; make them exclude each other",
    ),
    (
        r"Unsatisfiable schema: (.*)",
        lambda m: f"is satisfied by no text ({m[1]}); correct it",
    ),
    (r"schema too large", lambda _: "is too large, or combines too much; make it smaller"),
    (
        r"unknown special token: \"(.*?)\"",
        lambda m: f"names `{m[1]}`, which is no control token of this model; write it in quotes",
    ),
    (
        r"(?:fuel exhausted|lexer precomputation failed|initial lexer configuration|too many|"
        r"grammar size|.*too big)",
        lambda _: "is too much work; simplify it",
    ),
)

_WARNINGS: tuple[tuple[str, _Say], ...] = (
    (r'Unimplemented keys: \["(.*)"\]', lambda m: f"not supported, and ignored: {_named(m[1])}"),
    (r"Unknown format: (.*?)(?: \(\d+ times\))?$", lambda m: f"unknown format, ignored: `{m[1]}`"),
    (r"oneOf not fully supported", lambda _: "`oneOf` is read as `anyOf`"),
    (
        r"min/maxProperties only supported",
        lambda _: "`minProperties` and `maxProperties` are ignored beside optional properties",
    ),
)


def refusal(kind: GrammarKind, text: str) -> GrammarRejected:
    """The error for a grammar that llguidance does not compile."""
    name, reason = _NAMES[kind], _PLACE.sub("", text)
    if line := _LARK_PLACE.match(text) if kind == "lark" else None:
        name = f"the grammar, in line {line[1]},"
    said = _said(_REASONS, reason)
    if said is None and _LOOK_AROUND.search(text):
        said = "uses look-around or a back reference, which is not supported; write it without"
    return GrammarRejected(f"{name} {said or f'does not compile: {_short(reason)}; correct it'}")


def warning(text: str) -> str:
    """What is not followed in a grammar that was compiled."""
    return _said(_WARNINGS, text) or _short(text)


def _said(table: tuple[tuple[str, _Say], ...], text: str) -> str | None:
    found = ((re.match(pattern, text), say) for pattern, say in table)
    return next((_short(say(match)) for match, say in found if match), None)


def _named(keys: str) -> str:
    return ", ".join(f"`{key}`" for key in keys.split('", "'))


def _short(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= _LENGTH else line[:_LENGTH] + "..."
