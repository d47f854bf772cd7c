"""JSON schemas as grammars: what they let through is valid, and what they do not hold they say."""

from __future__ import annotations

import datetime
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from samovar.errors import GrammarRejected
from samovar.native.grammar import Compiled, Grammars
from samovar.native.json_schema import parse
from samovar.native.matcher import Matcher
from samovar.native.model import Model, ModelOptions
from samovar.native.vocabulary import Vocabulary
from samovar.types import Grammar
from tests.conftest import ROOT, Models, scaled
from tests.native.schema_suite import DRAFTS, FOLDER, Case, cases, judge
from tests.native.walks import walks

# Its expressions mean what ECMA 262 says; the judge reads them as Python does.
OTHER_EXPRESSIONS = "optional/ecmascript-regex"


@pytest.fixture(scope="module")
def vocabulary(models: Models) -> Iterator[Vocabulary]:
    """A small one: a walk through it has many steps."""
    model = Model(models.vocabulary(), ModelOptions(vocab_only=True))
    yield model.vocabulary
    model.close()


@pytest.fixture(scope="module")
def grammars(vocabulary: Vocabulary) -> Grammars:
    return Grammars(vocabulary)


def _compile(grammars: Grammars, schema: object) -> Compiled:
    return grammars.compile(Grammar("json_schema", json.dumps(schema)))


def _accepts(compiled: Compiled, vocabulary: Vocabulary, text: str | bytes) -> bool:
    matcher = compiled.start()
    for token in vocabulary.tokenize(text, add_special=False):
        if not matcher.allows(token):
            return False
        matcher.consume(token)
    return matcher.allows(vocabulary.eog_tokens[0])


# ---- the official test suite --------------------------------------------------------------------


def _compiled(grammars: Grammars, case: Case) -> Compiled | None:
    try:
        return grammars.compile(Grammar("json_schema", case.source))
    except GrammarRejected as refusal:
        _check_message(str(refusal))
        return None


def _check_message(message: str) -> None:
    assert "\n" not in message
    assert len(message) < 400


@pytest.fixture(scope="module", params=DRAFTS)
def draft(request: pytest.FixtureRequest) -> str:
    assert FOLDER.exists(), "the test suite of JSON Schema is not there; run `make test-setup`"
    return str(request.param)


@pytest.fixture(scope="module")
def outcomes(draft: str, grammars: Grammars) -> list[tuple[Case, Compiled | None]]:
    """What became of every schema of a draft; None: it was refused."""
    return [(case, _compiled(grammars, case)) for case in cases(draft)]


def _exact(outcomes: list[tuple[Case, Compiled | None]]) -> Iterator[tuple[Case, Compiled]]:
    for case, compiled in outcomes:
        if compiled is not None and not compiled.warnings:
            yield case, compiled


def test_no_invalid_instance_of_the_suite_passes(
    draft: str, outcomes: list[tuple[Case, Compiled | None]], vocabulary: Vocabulary
) -> None:
    passed = 0
    for case, compiled in _exact(outcomes):
        is_valid = judge(draft, case.schema)
        for instance, verdict in case.instances:
            text = json.dumps(instance, ensure_ascii=False)
            if not _accepts(compiled, vocabulary, text):
                continue
            passed += 1
            if not case.name.startswith(OTHER_EXPRESSIONS):
                assert is_valid(text), (case, text)
            elif not verdict:  # U+FEFF is white space in ECMA 262 alone
                assert instance == "\ufeff", (case, instance)
    assert passed > 250


def test_no_walk_through_a_schema_of_the_suite_is_invalid(
    draft: str, outcomes: list[tuple[Case, Compiled | None]], vocabulary: Vocabulary
) -> None:
    ended = unended = 0
    for case, compiled in _exact(outcomes):
        if case.name.startswith(OTHER_EXPRESSIONS):
            continue
        is_valid = judge(draft, case.schema)
        starts = (compiled.start() for _ in range(scaled(2, 100)))
        for text in walks(starts, vocabulary, f"{draft} {case.name}"):
            if text is None:
                unended += 1
                continue
            ended += 1
            assert is_valid(text), (case, text)
    assert ended > scaled(250, 12_000)
    assert unended < ended / 50


def test_what_the_documents_count_of_the_suite_is_so(
    draft: str, outcomes: list[tuple[Case, Compiled | None]], vocabulary: Vocabulary
) -> None:
    exact = list(_exact(outcomes))
    refused = sum(compiled is None for _, compiled in outcomes)
    rejected = sum(
        verdict and not _accepts(compiled, vocabulary, json.dumps(instance, ensure_ascii=False))
        for case, compiled in exact
        for instance, verdict in case.instances
    )
    nearly = len(outcomes) - len(exact) - refused
    row = f"| {draft.removeprefix('draft')} | {len(outcomes)} | {len(exact)} | {nearly} | {refused}"
    counted = f"{row} | 0 | {rejected} |"
    assert counted in (ROOT / "docs" / "grammars.md").read_text(encoding="utf-8"), counted


def test_whatever_is_not_held_of_the_suite_is_named(
    outcomes: list[tuple[Case, Compiled | None]],
) -> None:
    unsupported = ("contains", "uniqueItems", "propertyNames", "if", "dependentRequired", "not")
    seen: Counter[str] = Counter()
    for case, compiled in outcomes:
        if compiled is None:
            continue
        for warning in compiled.warnings:
            _check_message(warning)
        for keyword in unsupported:
            used = isinstance(case.schema, dict) and case.schema.get(keyword)
            if used not in (None, False, True, {}):
                assert any(f"`{keyword}`" in warning for warning in compiled.warnings), case
                seen[keyword] += 1
    assert seen["not"]


# ---- what llguidance alone would let through ----------------------------------------------------


def test_a_declared_name_cannot_come_again_in_disguise(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    schema = {"properties": {"a": {"type": "integer"}, "\n": {}}, "type": "object"}
    compiled = _compile(grammars, schema)
    assert compiled.warnings == ()
    assert _accepts(compiled, vocabulary, r'{"a":1,"b":"x"}')
    for text in (r'{"a":"x"}', r'{"\u0061":"x"}', r'{"a":1,"\u0061":"x"}', r'{"\u000A":1}'):
        assert not _accepts(compiled, vocabulary, text), text


def test_control_characters_can_be_said_where_no_name_could_hide(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    escaped = r'{"a":"\u001b[1m"}'
    closed = {"properties": {"a": {"type": "string"}}, "additionalProperties": False}
    assert _accepts(_compile(grammars, closed), vocabulary, escaped)
    assert _accepts(grammars.compile(Grammar("json_object")), vocabulary, escaped)
    assert not _accepts(_compile(grammars, {"properties": {"a": {}}}), vocabulary, escaped)
    own = {"properties": {"a": {"const": "\x1b[1m"}}}
    assert _accepts(_compile(grammars, own), vocabulary, escaped)
    assert any("escapes" in warning for warning in _compile(grammars, own).warnings)


@pytest.mark.parametrize("year", [1900, 1996, 2000, 2023, 2024, 2100, 9996])
def test_dates_are_days_that_there_are(
    grammars: Grammars, vocabulary: Vocabulary, year: int
) -> None:
    compiled = _compile(grammars, {"type": "string", "format": "date"})
    for month in range(14):
        for day in (0, 1, 9, 28, 29, 30, 31, 32):
            text = f"{year:04}-{month:02}-{day:02}"
            assert _accepts(compiled, vocabulary, f'"{text}"') is _is_date(text), text


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("time", "23:59:59Z", "23:59:60Z"),
        ("time", "00:00:00.123+05:30", "24:00:00Z"),
        ("date-time", "2024-02-29T12:00:00Z", "2023-02-29T12:00:00Z"),
        ("date-time", "1999-12-31T23:59:59-08:00", "1999-12-31T23:59:60Z"),
    ],
)
def test_times_have_no_leap_seconds(
    grammars: Grammars, vocabulary: Vocabulary, name: str, good: str, bad: str
) -> None:
    compiled = _compile(grammars, {"type": "string", "format": name, "pattern": "[0-9]"})
    assert compiled.warnings == ()
    assert _accepts(compiled, vocabulary, f'"{good}"')
    assert not _accepts(compiled, vocabulary, f'"{bad}"')


def test_a_pattern_beside_a_format_holds_too(grammars: Grammars, vocabulary: Vocabulary) -> None:
    compiled = _compile(grammars, {"type": "string", "format": "date", "pattern": "^2024"})
    assert _accepts(compiled, vocabulary, '"2024-05-01"')
    assert not _accepts(compiled, vocabulary, '"2023-05-01"')
    assert not _accepts(compiled, vocabulary, '"2024-05-41"')


def test_a_property_named_like_a_keyword_is_no_keyword(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    schema = {
        "properties": {"format": {"type": "integer"}, "uniqueItems": {"const": "date"}},
        "additionalProperties": False,
        "required": ["format"],
        "type": "object",
    }
    compiled = _compile(grammars, schema)
    assert _accepts(compiled, vocabulary, '{"format":1,"uniqueItems":"date"}')
    constant = {"const": {"format": "date", "uniqueItems": False}}
    assert _accepts(
        _compile(grammars, constant), vocabulary, '{"format":"date","uniqueItems":false}'
    )


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"const": 2**53 + 1}, "2**53"),
        ({"enum": [{"a": [-(2**60)]}]}, "2**53"),
        ({"type": "integer", "minimum": 2**53 + 1}, "2**53"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"not": {"type": "integer"}}, "`not`"),
        ({"items": {"properties": {"a": {"uniqueItems": True, "if": {}}}}}, "`if`, `uniqueItems`"),
        ({"type": "string", "format": "color"}, "`color`"),
        ({"oneOf": [{"type": "string"}, {"minLength": 2}]}, "`oneOf`"),
        ({"properties": {"a": {}}, "maxProperties": 1}, "`maxProperties`"),
    ],
)
def test_what_is_not_held_to_the_letter_is_said(
    grammars: Grammars, schema: dict[str, object], word: str
) -> None:
    compiled = _compile(grammars, schema)
    assert any(word in warning for warning in compiled.warnings), compiled.warnings
    with pytest.raises(GrammarRejected, match=re.escape(word)) as refusal:
        compiled.require_exact()
    _check_message(str(refusal.value))


@pytest.mark.parametrize(
    "schema",
    [
        {"const": 2**53},
        {"type": "object", "minProperties": 1},
        {"type": "array", "uniqueItems": False},
        {"type": "object", "unevaluatedProperties": True, "propertyNames": {}},
        {"type": "integer", "format": "int32", "nullable": True, "default": 2**60},
        {"type": "array", "maxItems": 2.0, "minItems": 1.0},
        {"type": "object", "properties": {"a": {}}, "examples": [{"not": {}}]},
        {"oneOf": [{"const": "a"}, {"const": "b"}, {"type": "integer"}]},
        True,
    ],
)
def test_what_is_held_to_the_letter_needs_no_warning(grammars: Grammars, schema: object) -> None:
    compiled = _compile(grammars, schema)
    assert compiled.warnings == ()
    compiled.require_exact()


def test_options_of_llguidance_in_a_schema_count_for_nothing(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    options = {"whitespace_flexible": True, "item_separator": "x", "nonsense": 1}
    compiled = _compile(grammars, {"type": "array", "x-guidance": options})
    assert _accepts(compiled, vocabulary, "[1,2]")
    assert not _accepts(compiled, vocabulary, "[1x2]")


# ---- white space --------------------------------------------------------------------------------

DOCUMENT = '{"a":[1,"b c",{"d":null}],"e":-2.5e1}'


def _run(matcher: Matcher, token: int) -> int:
    """How often a token may come in a row."""
    count = 0
    while count < 200 and matcher.allows(token):
        matcher.consume(token)
        count += 1
    return count


@pytest.mark.parametrize("schema", ["{}", '{"type":"object","properties":{"a":{}}}'])
def test_white_space_does_not_go_on_for_ever(
    grammars: Grammars, vocabulary: Vocabulary, schema: str
) -> None:
    compiled = grammars.compile(Grammar("json_schema", schema))
    blanks = {c: vocabulary.tokenize(c, add_special=False)[0] for c in " \t\n\r"}
    runs: Counter[tuple[str, int]] = Counter()
    for end in range(len(DOCUMENT) + 1):
        for character, token in blanks.items():
            matcher = compiled.start()
            for before in vocabulary.tokenize(DOCUMENT[:end], add_special=False):
                matcher.consume(before)
            is_in_text = DOCUMENT[:end].count('"') % 2
            runs[character, _run(matcher, token)] += not is_in_text
    longest = {c: max(n for k, n in runs if k == c and runs[k, n]) for c in blanks}
    assert longest == {" ": 24, "\t": 24, "\n": 1, "\r": 1}


def test_indented_json_is_as_good_as_compact_json(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    compiled = grammars.compile(Grammar("json_object"))
    value = json.loads(DOCUMENT)
    for indent in (None, 0, 2, 4, 8, "\t"):
        assert _accepts(compiled, vocabulary, json.dumps(value, indent=indent))
    for text in (f" {DOCUMENT}", f"{DOCUMENT}\n", DOCUMENT.replace(",", ",\n\n", 1)):
        assert not _accepts(compiled, vocabulary, text)


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"maximum": 1e999}', "too large"),
        ("[]", "no JSON object"),
        ('"x"', "no JSON object"),
        ("false", "false"),
        ('{"type": "foo"}', "foo"),
        ('{"type": 5}', "type"),
        ('{"minLength": -1}', "minLength"),
        ('{"enum": []}', "satisfied by no text"),
        ('{"allOf": [{"type": "integer"}, {"type": "string"}]}', "satisfied by no text"),
        ('{"$ref": "#/$defs/a"}', "`#/.defs/a`.*define"),
        ('{"$ref": "https://example.com/schema"}', "`https://example.com/schema`.*fetched"),
        ('{"$ref": "file:///etc/hostname"}', "fetched"),
        ('{"$schema": "http://json-schema.org/draft-03/schema#"}', "draft"),
        ('{"$schema": "https://example.com/mine"}', r"\$schema"),
        ('{"pattern": "a(?=b)"}', "look-around"),
        ('{"pattern": "["}', "regex"),
        (r'{"pattern": "\\bword"}', "look-around"),
        ('{"patternProperties": {"a*": {}, "b*": {"type": "null"}}}', "patternProperties"),
        ('{"type": "number", "multipleOf": 1e9}', "multipleOf"),
        ('{"allOf": [{"multipleOf": 10007}, {"multipleOf": 997}]}', "multipleOf"),
        ('{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}', "no text"),
        ('{"items": [' * 60 + "{}" + "]}" * 60, r"deep.*\$defs"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_in_a_line_that_says_why(
    grammars: Grammars, source: str, words: str
) -> None:
    with pytest.raises(GrammarRejected, match=words) as refusal:
        grammars.compile(Grammar("json_schema", source))
    _check_message(str(refusal.value))
    assert re.search(r"[;,] |too large", str(refusal.value)), "it does not say what to do"


def test_multiples_are_counted_in_steps_of_the_last_decimal_place() -> None:
    for multiples in ([0.01, 5], [0.25, 0.5, 60], [1e-9], [86400], [-3]):
        parse(json.dumps({"allOf": [{"multipleOf": value} for value in multiples]}))
    for multiples in ([0.001, 997.001], [1e300], [10007, 997]):
        with pytest.raises(GrammarRejected):
            parse(json.dumps({"allOf": [{"multipleOf": value} for value in multiples]}))


# ---- a real vocabulary, and a document as models write them -------------------------------------


def test_a_document_is_followed_token_by_token_and_nothing_else(vocabulary: Vocabulary) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "kind": {"enum": ["cat", "category", "dog"]},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": False,
    }
    is_valid = judge("draft2020-12", schema)
    compiled = _compile(Grammars(vocabulary), schema)
    starts = (compiled.start() for _ in range(scaled(30, 500)))
    texts = [text for text in walks(starts, vocabulary, "document") if text is not None]
    assert len(set(texts)) > len(texts) / 2
    for text in texts:
        assert is_valid(text), text


def test_a_seeded_walk_is_the_same_again(grammars: Grammars, vocabulary: Vocabulary) -> None:
    compiled = grammars.compile(Grammar("json_object"))
    first, again = (
        list(walks((compiled.start() for _ in range(3)), vocabulary, "same")) for _ in range(2)
    )
    assert first == again


def test_the_mask_of_a_schema_is_what_asking_for_every_token_says(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    matcher = _compile(grammars, {"properties": {"a": {"type": "integer"}}}).start()
    rng = random.Random(4)
    for _ in range(20):
        mask = matcher.mask()
        assert mask.tolist() == [matcher.allows(token) for token in range(vocabulary.size)]
        allowed = np.flatnonzero(mask).tolist()
        token = rng.choice(allowed)
        matcher.consume(token)
        if token in vocabulary.eog_tokens:
            break


def test_the_suite_is_the_one_that_was_fetched() -> None:
    assert Path(FOLDER.parent, "LICENSE").exists()
    assert sum(len(cases(draft)) for draft in DRAFTS) > 1500
