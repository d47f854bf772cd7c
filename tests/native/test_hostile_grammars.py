"""Hostile schemas, expressions, choices and Lark texts: an error or bounded work, nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from samovar.native.json_schema import MAX_DEPTH
from samovar.types import Grammar
from tests.conftest import Models
from tests.native import hostile


def _chain(length: int, link: Callable[[object], object], **more: object) -> str:
    """Definitions that refer to each other, one to the next."""
    definitions = {
        f"a{place}": link({"$ref": f"#/$defs/a{place + 1}"}) if place < length else {}
        for place in range(length + 1)
    }
    return json.dumps({"$ref": "#/$defs/a0", "$defs": definitions, **more})


def _itself(next_one: object) -> object:
    return next_one


def _property(next_one: object) -> object:
    return {"properties": {"x": next_one}}


def _deep(next_one: object) -> object:
    return {"anyOf": [{"allOf": [{"items": {"oneOf": [{"properties": {"x": next_one}}]}}]}]}


def _alternatives(count: int) -> str:
    """As many combinations as there are subsets."""
    pairs = [
        {"anyOf": [{"properties": {f"{c}{n}": {"type": "string"}}} for c in "ab"]}
        for n in range(count)
    ]
    return json.dumps({"allOf": pairs})


SCHEMAS = {
    "deep": '{"items": ' * 5_000 + "{}" + "}" * 5_000,
    "deep enough for Python": '{"items": ' * 99 + "{}" + "}" * 99,
    "deep constant": '{"const": ' + "[" * 5_000 + "]" * 5_000 + "}",
    "far too deep": "[" * 500_000,
    "a loop": json.dumps({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
    "a loop with more": json.dumps(
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a", "minimum": 1}}}
    ),
    "itself": '{"items": {"$ref": "#"}, "minItems": 1, "type": "array"}',
    "a long chain": _chain(20_000, _itself),
    "the longest chain": _chain(MAX_DEPTH // 3 - 1, _itself),
    "the longest chain of properties": _chain(MAX_DEPTH // 5 - 1, _property),
    "the longest chain of deep ones": _chain(MAX_DEPTH // 12 - 1, _deep),
    "elsewhere": '{"$ref": "http://127.0.0.1:9/schema.json"}',
    "a file": '{"$ref": "file:///etc/passwd"}',
    "no JSON": "{'a': 1}",
    "no object": "[1, 2]",
    "a text": '"text"',
    "a megabyte of choices": json.dumps({"enum": [f"value {n:06}" for n in range(60_000)]})[:-1]
    + "}",
    "many numbers": json.dumps({"enum": list(range(100_000))}),
    "too large": json.dumps({"enum": ["x" * 2_000_000]}),
    "endless list": '{"type": "array", "maxItems": 1000000000}',
    "long list": '{"type": "array", "minItems": 1000000000}',
    "long text": '{"type": "string", "minLength": 1000000000, "maxLength": 2000000000}',
    "many properties": '{"type": "object", "minProperties": 1000000000}',
    "nested repetition": json.dumps({"type": "string", "pattern": "^((a{1,999}){1,999}){1,999}$"}),
    "catastrophic expression": json.dumps({"type": "string", "pattern": "^(a|a?)+" + "a?" * 3_000}),
    "deep expression": json.dumps({"pattern": "(" * 5_000 + "a" + ")" * 5_000}),
    "many states": json.dumps({"type": "string", "pattern": "^(.*a.{12}|.*b.{14}|.*c.{16})d$"}),
    "tiny multiple": '{"type": "number", "multipleOf": 1e-300}',
    "large multiple": '{"type": "integer", "multipleOf": 1234567891}',
    "common multiple": '{"allOf": [{"multipleOf": 10007}, {"multipleOf": 9973}]}',
    "largest multiple": '{"type": "integer", "multipleOf": 99991}',
    "subsets": _alternatives(24),
    "few subsets": _alternatives(8),
    "named properties": json.dumps({"properties": {f"name{n}": {} for n in range(20_000)}}),
    "optional properties": json.dumps(
        {"type": "object", "properties": {f"name{n}": {"type": "string"} for n in range(800)}}
    ),
    "required properties": json.dumps({"required": [f"name{n}" for n in range(5_000)]}),
    "patterns": json.dumps({"patternProperties": {f"^{n}a": {} for n in range(150)}}),
    "overlapping alternatives": json.dumps(
        {"oneOf": [{"properties": {"t": {"const": n}, f"v{n}": {}}} for n in range(400)]}
    ),
    "a long name": json.dumps({"properties": {"a" * 500_000: {}}}),
    "digits": '{"maximum": ' + "9" * 100_000 + "}",
    "constants that hide": json.dumps({"const": {"$ref": "#/" + "a/" * 10_000}}),
    "half a character": '{"const": "\\ud800"}',
    "options": '{"x-guidance": {"lenient": "yes", "whitespace_pattern": "("}}',
    "types": '{"type": [], "properties": 5, "required": "a", "enum": {}, "allOf": 1}',
    "mixed up": '{"properties": [{"$ref": 5}], "$defs": [1], "format": {}, "pattern": 3}',
}

EXPRESSIONS = {
    "ambiguous": "(a+)+$",
    "repeated repetition": "((a{1,1000}){1,1000}){1,1000}",
    "deep": "(" * 5_000 + "a" + ")" * 5_000,
    "stars": "[a-z]*" * 2_000,
    "overlapping": "(a|b|ab)*" * 200,
    "long": "x" * 200_000,
    "too long": "x" * 300_000,
    "many words": "|".join(f"word{n}" for n in range(20_000)),
    "letters of all kinds": r"\p{L}{1,500}",
    "states": "(.*a){20}.{200}b",
    "unclosed": "(a",
    "slashes": r"a/\/\\/",
    "new lines": "a\nb\r\n",
    "empty": "",
    "look-ahead": "(?=a)a",
    "back reference": r"(a)\1",
    "nothing": r"[^\s\S]",
    "anything": "(?s:.*)",
    "NUL": "a\x00b",
    "half a character": "\udcff",
}

CHOICES = {
    "many": json.dumps([f"choice {n}" for n in range(40_000)]),
    "too many": json.dumps([f"choice number {n}" for n in range(100_000)]),
    "no list": '{"a": 1}',
    "no texts": "[1]",
    "none": "[]",
    "no JSON": "yes, no",
    "deep": "[" * 100_000,
    "half a character": '["\\ud800"]',
    "NUL": '["\\u0000"]',
    "quotes": json.dumps(['"', "\\", "\n", '" | "x', "/", "\x7f", "\u2028"]),
    "long": json.dumps(["a" * 900_000]),
}

LARK = {
    "deep": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000,
    "deep terminals": "start: A\nA: " + "(" * 20_000 + '"a"' + ")" * 20_000,
    "optional": "start: " + "[" * 20_000 + '"a"' + "]" * 20_000,
    "a long chain": "\n".join(
        ["start: r0", *(f"r{n}: r{n + 1}" for n in range(8_000)), 'r8000: "a"']
    ),
    "a chain of terminals": "\n".join(
        ["start: R0", *(f"R{n}: R{n + 1}" for n in range(3_000)), 'R3000: "a"']
    ),
    "the longest chain": "\n".join(
        ["start: r0", *(f"r{n}: r{n + 1}" for n in range(990)), 'r990: "a"']
    ),
    "the longest chain of terminals": "\n".join(
        ["start: R0", *(f"R{n}: R{n + 1}" for n in range(990)), 'R990: "a"']
    ),
    "itself": "start: start",
    "ambiguous": "start: e\ne: e e e | /[a-z]/",
    "ambiguous with a schema": "start: e\ne: e e e | /[a-z]/ | %json {}",
    "empty": "",
    "GBNF": 'root ::= "a"',
    "deep schema": "start: %json " + '{"items": ' * 5_000 + "{}" + "}" * 5_000,
    "endless schema": "start: %json " + "[" * 200_000,
    "no schema": "start: %json",
    "half a schema": 'start: %json {"a": ',
    "another file": "start: @other\n%import .other.RULE",
    "huge repetition": 'start: "a"{1000000000}',
    "repetitions": 'start: (("a"{1,1000}){1,1000}){1,1000}',
    "not": "start: A\nA: ~(~(~/a+/ & /b*/) & ~/c/){3}",
    "parameters": "start: %regex {",
    "options": '%llguidance {"no_forcing": false, "allow_invalid_utf8": true}\nstart: /.*/',
    "unknown options": '%llguidance {"nonsense": 1}\nstart: /.*/',
    "every token": "start: <[*]>",
    "no such token": "start: <[999999999]>",
    "stops": 'start: a "b"\na[stop="x"]: /.*/',
    "brackets in a text": 'start: "' + "(" * 20_000 + '"',
    "comments": "// (((\n# [[[\nstart: " + '"a"\n' + "// :\n" * 50_000,
}

ALL = {
    f"{kind}: {name}": Grammar(kind, source)
    for kind, sources in (
        ("json_schema", SCHEMAS),
        ("regex", EXPRESSIONS),
        ("choice", CHOICES),
        ("lark", LARK),
    )
    for name, source in sources.items()
}


@pytest.fixture(scope="module")
def verdicts(models: Models) -> dict[str, str]:
    """What became of each."""
    return hostile.verdicts(models(), ALL)


@pytest.mark.parametrize("name", ALL)
def test_it_is_refused_or_works_and_the_process_lives(verdicts: dict[str, str], name: str) -> None:
    assert verdicts[name] in ("works", "refused")


WORKING = (
    "json_schema: deep enough for Python",
    "json_schema: the longest chain",
    "json_schema: the longest chain of properties",
    "json_schema: a megabyte of choices",
    "json_schema: endless list",
    "json_schema: catastrophic expression",
    "json_schema: largest multiple",
    "json_schema: few subsets",
    "json_schema: optional properties",
    "json_schema: overlapping alternatives",
    "json_schema: constants that hide",
    "json_schema: options",
    "regex: ambiguous",
    "regex: slashes",
    "regex: new lines",
    "regex: many words",
    "choice: many",
    "choice: quotes",
    "lark: the longest chain",
    "lark: the longest chain of terminals",
    "lark: brackets in a text",
    "lark: comments",
)


@pytest.mark.parametrize("name", WORKING)
def test_what_only_looks_hostile_works(verdicts: dict[str, str], name: str) -> None:
    assert verdicts[name] == "works"
