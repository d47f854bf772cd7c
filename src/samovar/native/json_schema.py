r"""JSON schemas, checked and rewritten into what llguidance follows to the letter.

llguidance reads the drafts 4 to 2020-12. What it does not support it says, but some things it
follows only nearly, without a word. Here they are made exact or noted:

- the name of a declared property may be written with `\u` escapes, and so pass for another one:
  such escapes are off where other properties than the declared ones may come;
- `date`, `time` and `date-time` include 29 February of any year and leap seconds: they become
  expressions without them;
- a property that is repeated counts twice for `minProperties`, and numbers are doubles: noted;
- white space may go on for ever: between two parts of a text there is at most one line break and
  24 blanks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from samovar.errors import GrammarRejected

MAX_NESTING = 100
"""Objects and arrays in each other; llguidance reads no JSON that is deeper than 128."""
MAX_DEPTH = 8000
"""References times nesting. References may lead to each other, and llguidance recurses without
looking: up to 4.2 kB of stack per level (see grammar.STACK_BYTES)."""
MAX_MULTIPLE = 100_000
"""The least common multiple of all `multipleOf`, in units of their last decimal place. llguidance
looks at every remainder: half a minute at ten times as many."""
MAX_NAMES = 5000
"""Properties of one object. llguidance's time grows with their square: 3 s."""
_PATTERN_COST = 15  # a property that is named by an expression counts as that many

WHITE_SPACE = r"[ \t]{1,24}|\r?\n[ \t]{0,24}"
"""What may stand between two parts of a JSON text, at most once."""

_DRAFT = re.compile(r"https?://json-schema\.org/draft(-0[467]|/2019-09|/2020-12)/schema#?")
_EXACT = 2**53  # greater whole numbers are not all doubles
_SHORT_ESCAPES = 'nrbtf\\"'
_LONG_ESCAPE = re.compile(r"\\u00[01]")

# What the values of keywords are: schemas by name, plain values, nothing. All else that is an
# object counts as a schema: references may lead to anywhere.
_NAMED = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
)
_PLAIN = frozenset(("const", "enum"))
_IGNORED = frozenset(("default", "examples", "example", "x-guidance"))

# Keywords that are not supported, with values that say nothing.
_IDLE: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "propertyNames": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "not": (False,),
}

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")

_LEAP_YEAR = "[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00"
_DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"(?:[1-9][0-9]{{3}}-{_DAY}|(?:{_LEAP_YEAR})-02-29)"
_HOURS = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOURS}:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:Z|[+-]{_HOURS})"
_FORMATS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema that may be compiled."""

    content: dict[str, Any]
    allowed_escapes: str
    notes: tuple[str, ...]
    """What will not be held exactly."""

    def embedded(self, *, is_lenient: bool = False) -> str:
        """The JSON text to put behind `%json`. Lenient: what is not supported is left out."""
        options = {
            "whitespace_pattern": WHITE_SPACE,
            "json_allowed_escapes": self.allowed_escapes,
            "lenient": is_lenient,
        }
        return json.dumps({**self.content, "x-guidance": options}, ensure_ascii=False)


def parse(source: str) -> Schema:
    """Read a schema. Raises GrammarRejected for what is none, or asks for too much work."""
    content = _load(source)
    nesting = _nesting(content)
    schemas = list(_schemas(content))
    _check_draft(content)
    _check_references(schemas, nesting)
    _check_multiples(schemas)
    _check_names(schemas)
    for schema in schemas:
        _rewrite(schema)
    needs_escapes = bool(_LONG_ESCAPE.search(json.dumps(content)))
    has_open_names = any(map(_has_open_names, schemas))
    notes = _notes(schemas, escapes_hide_names=needs_escapes and has_open_names)
    escapes = _SHORT_ESCAPES if has_open_names and not needs_escapes else _SHORT_ESCAPES + "u"
    return Schema(content, escapes, tuple(notes))


def _load(source: str) -> dict[str, Any]:
    try:
        content = json.loads(source, parse_constant=_number, parse_float=_number)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise GrammarRejected(f"the JSON schema is not valid JSON: {error}; correct it") from None
    if content is True:
        return {}
    if content is False:
        raise GrammarRejected("no JSON text satisfies the schema `false`; use another one")
    if not isinstance(content, dict):
        raise GrammarRejected("the JSON schema is no JSON object; give an object, or true")
    return content


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no number of JSON, or too large")
    return value


def _too_deep() -> GrammarRejected:
    return GrammarRejected(
        f"the JSON schema nests more than {MAX_NESTING} deep; put inner parts into $defs"
    )


def _nesting(content: dict[str, Any]) -> int:
    """How many objects and arrays stand in each other."""
    level: list[Any] = [content]
    for depth in range(MAX_NESTING + 1):
        level = [value for holder in level for value in _values(holder)]
        if not level:
            return depth
    raise _too_deep()


def _values(holder: object) -> Iterable[Any]:
    if isinstance(holder, dict):
        return holder.values()
    return holder if isinstance(holder, list) else ()


def _schemas(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every object in it that may be a schema."""
    waiting = [content]
    while waiting:
        schema = waiting.pop()
        yield schema
        for key, value in schema.items():
            if key in _PLAIN or key in _IGNORED:
                continue
            inner = [value] if isinstance(value, dict) and key not in _NAMED else _values(value)
            waiting += [one for one in inner if isinstance(one, dict)]


def _check_draft(content: dict[str, Any]) -> None:
    draft = content.get("$schema")
    if draft is not None and not _DRAFT.fullmatch(str(draft)):
        raise GrammarRejected(
            "the JSON schema names a $schema that is not known here; use one of the drafts 4, 6, 7,"
            " 2019-09 and 2020-12, or leave it out"
        )


def _check_references(schemas: list[dict[str, Any]], nesting: int) -> None:
    count = len({str(schema["$ref"]) for schema in schemas if "$ref" in schema})
    if count * nesting > MAX_DEPTH:
        raise GrammarRejected(
            f"the JSON schema refers to {count} definitions and nests {nesting} deep, which is too"
            " much to read safely; use fewer definitions"
        )


def _check_multiples(schemas: list[dict[str, Any]]) -> None:
    found = [_fraction(schema.get("multipleOf")) for schema in schemas]
    multiples = [value for value in found if value]
    if not multiples:
        return
    least = Fraction(
        math.lcm(*(value.numerator for value in multiples)),
        math.gcd(*(value.denominator for value in multiples)),
    )
    while least.denominator != 1 and least <= MAX_MULTIPLE:
        least *= 10
    if least > MAX_MULTIPLE:
        raise GrammarRejected(
            f"the multipleOf in the JSON schema have a common multiple of more than {MAX_MULTIPLE}"
            " steps; use smaller ones, or leave them out"
        )


def _check_names(schemas: list[dict[str, Any]]) -> None:
    counts = [
        max(_count(schema.get("properties")), _count(schema.get("required")))
        + _count(schema.get("patternProperties")) * _PATTERN_COST
        for schema in schemas
    ]
    if sum(count**2 for count in counts) > MAX_NAMES**2:
        raise GrammarRejected(
            f"the JSON schema declares {sum(counts)} properties, too many to follow; use at most"
            f" {MAX_NAMES} in one object"
        )


def _count(value: object) -> int:
    return len(value) if isinstance(value, (dict, list)) else 0


def _fraction(value: object) -> Fraction:
    """The decimal fraction that is written there; 0 where there is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Fraction(repr(value)) if is_number else Fraction(0)


def _rewrite(schema: dict[str, Any]) -> None:
    for key, values in _IDLE.items():
        if key in schema and schema[key] in values:
            del schema[key]
    for key in _COUNTS:
        count = schema.get(key)
        if isinstance(count, float) and count.is_integer():
            schema[key] = int(count)
    name = schema.get("format")
    pattern = _FORMATS.get(name) if isinstance(name, str) else None
    if pattern is None:
        return
    if "pattern" not in schema:
        schema["pattern"] = pattern
    elif isinstance(schema.setdefault("allOf", []), list):
        schema["allOf"].append({"pattern": pattern})
    del schema["format"]


def _has_open_names(schema: dict[str, Any]) -> bool:
    """Whether it declares properties, and lets others come."""
    declares = not schema.keys().isdisjoint(("properties", "required", "patternProperties"))
    return declares and schema.get("additionalProperties") is not False


def _notes(schemas: list[dict[str, Any]], *, escapes_hide_names: bool) -> Iterator[str]:
    if any(map(_counts_properties, schemas)):
        yield "`minProperties` counts a property again when it is repeated"
    if any(abs(number) > _EXACT for schema in schemas for number in _whole_numbers(schema)):
        yield "whole numbers beyond 2**53 are rounded as doubles are"
    if escapes_hide_names:
        yield "a declared property may come again with escapes in its name, and not be looked at"


def _counts_properties(schema: dict[str, Any]) -> bool:
    least = schema.get("minProperties")
    is_open = schema.get("additionalProperties") is not False or "patternProperties" in schema
    return isinstance(least, (int, float)) and least > 1 and is_open


def _whole_numbers(schema: dict[str, Any]) -> Iterator[int]:
    waiting = [value for key, value in schema.items() if key not in _IGNORED]
    plain = [schema[key] for key in _PLAIN if key in schema]
    while plain:
        plain = [value for holder in plain for value in _values(holder)]
        waiting += plain
    return (value for value in waiting if isinstance(value, int))
