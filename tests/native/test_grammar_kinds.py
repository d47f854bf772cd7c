"""Regular expressions, choices, JSON objects and Lark texts, on vocabularies small and real."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from samovar.errors import GrammarRejected, InvalidToken
from samovar.native.grammar import Grammars
from samovar.native.matcher import Matcher
from samovar.native.model import Model, ModelOptions
from samovar.native.vocabulary import Vocabulary
from samovar.types import Grammar, GrammarKind
from tests.conftest import Models, scaled, shared_vocabularies
from tests.native.walks import walk

REAL = [path for path in shared_vocabularies() if path.stem.endswith(("llama-bpe", "phi-3"))]


@pytest.fixture(params=["own", "spm", *REAL], ids=lambda p: getattr(p, "stem", p), scope="module")
def vocabulary(request: pytest.FixtureRequest, models: Models) -> Iterator[Vocabulary]:
    """Vocabularies small and real."""
    path = request.param
    if not isinstance(path, Path):
        path = models.vocabulary(None if path == "own" else path)
    model = Model(path, ModelOptions(vocab_only=True))
    yield model.vocabulary
    model.close()


@pytest.fixture(scope="module")
def grammars(vocabulary: Vocabulary) -> Grammars:
    return Grammars(vocabulary)


@lru_cache(4)
def _tokens(vocabulary: Vocabulary) -> dict[bytes, int]:
    return {vocabulary.piece(token): token for token in reversed(range(vocabulary.size))}


def _spell(vocabulary: Vocabulary, text: str) -> list[int]:
    """A text as tokens of one byte or a few, without what a tokenizer would put before it."""
    tokens, rest = [], text.encode()
    pieces = _tokens(vocabulary)
    while rest:
        length = next(n for n in range(min(8, len(rest)), 0, -1) if rest[:n] in pieces)
        tokens.append(pieces[rest[:length]])
        rest = rest[length:]
    return tokens


def _accepts(matcher: Matcher, vocabulary: Vocabulary, text: str) -> bool:
    for token in _spell(vocabulary, text):
        if not matcher.allows(token):
            return False
        matcher.consume(token)
    return matcher.allows(vocabulary.eog_tokens[0])


# ---- every kind ---------------------------------------------------------------------------------

EVERY: dict[GrammarKind, tuple[str, str, str]] = {
    "gbnf": ('root ::= "yes" | "no"', "yes", "maybe"),
    "lark": ('start: "yes" | "no"', "no", "maybe"),
    "regex": ("yes|no", "yes", "yesno"),
    "choice": ('["yes", "no"]', "no", "ye"),
    "json_object": ("", '{"a": [1, "b"]}', "[1]"),
    "json_schema": ('{"type": "integer"}', "-12", "1.5"),
}


@pytest.mark.parametrize("kind", EVERY)
def test_every_kind_lets_through_what_it_means_and_then_every_end(
    grammars: Grammars, vocabulary: Vocabulary, kind: GrammarKind
) -> None:
    source, good, bad = EVERY[kind]
    compiled = grammars.compile(Grammar(kind, source))
    assert compiled.warnings == ()
    assert not _accepts(compiled.start(), vocabulary, bad)
    for end in vocabulary.eog_tokens:
        matcher = compiled.start()
        assert not matcher.allows(end)
        assert _accepts(matcher, vocabulary, good)
        assert matcher.allows(end)
        assert matcher.mask()[end]
        matcher.consume(end)


@pytest.mark.parametrize("kind", EVERY)
def test_every_kind_is_refused_in_one_line_that_says_what_to_do(
    grammars: Grammars, kind: GrammarKind
) -> None:
    wrong = {
        "gbnf": "root ::= (",
        "lark": "start: nowhere",
        "regex": "a(?=b)",
        "choice": "[1]",
        "json_object": "",
        "json_schema": '{"type": "nothing"}',
    }[kind]
    if kind == "json_object":  # nothing can be wrong with it
        assert grammars.compile(Grammar(kind, "ignored")).warnings == ()
        return
    with pytest.raises(GrammarRejected) as refusal:
        grammars.compile(Grammar(kind, wrong))
    message = str(refusal.value)
    assert "\n" not in message
    assert len(message) < 400
    assert re.search(r"; (correct|give|use|put|leave|define|name)|write it without", message)


def test_plain_text_is_gbnf(grammars: Grammars) -> None:
    source = 'root ::= "a"'
    assert grammars.compile(source) is grammars.compile(Grammar("gbnf", source))


# ---- regular expressions ------------------------------------------------------------------------

EXPRESSIONS = [
    "a+b",
    "(yes|no)( indeed)?",
    r"[0-9]{3}-[0-9]{4}",
    r"\d{1,3}(\.\d{1,3}){3}",
    "^anchored$",
    "a/b/c",
    r"a\/b",
    "(?i)case",
    r"[^\x00-\x1f\"]{0,12}",
    "\u00e9+|\u6f22\u5b57",
    r"#\w{2,8}",
    "a|ab|abc",
    "x*",
    "line\nbreak",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_walk_through_an_expression_matches_it_from_end_to_end(
    grammars: Grammars, vocabulary: Vocabulary, expression: str
) -> None:
    compiled = grammars.compile(Grammar("regex", expression))
    for number in range(scaled(4, 60)):
        text = walk(compiled.start(), vocabulary, random.Random(number))
        assert text is not None
        # Unicode's words have marks in them, and letters that are younger than Python's tables.
        plain = "".join("x" if _may_be_of_a_word(letter) else letter for letter in text.decode())
        assert re.fullmatch(expression, text.decode()) or re.fullmatch(expression, plain), text


NO_WORD = {"Zs", "Zl", "Zp", "Cc", "Cs", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk"}


def _may_be_of_a_word(letter: str) -> bool:
    return not letter.isascii() and unicodedata.category(letter) not in NO_WORD


def test_an_expression_is_of_the_whole_answer(grammars: Grammars, vocabulary: Vocabulary) -> None:
    compiled = grammars.compile(Grammar("regex", "ab"))
    assert _accepts(compiled.start(), vocabulary, "ab")
    for text in ("a", "b", "abab", "xab", "ab "):
        assert not _accepts(compiled.start(), vocabulary, text), text


# ---- choices ------------------------------------------------------------------------------------

CHOICES = [
    ["yes", "no"],
    ["cat", "category", "cats"],
    ["", " ", "x"],
    ['"', "\\", 'a"b', '" | "x', "\n", "\t/"],
    ["\u00e9", "\u6f22\u5b57", "\U0001f999"],
    ["same", "same"],
    ["[a-z]+", "start: x", "%json {}", "// x"],
    [str(number) for number in range(500)],
]


@pytest.mark.parametrize("texts", CHOICES, ids=lambda texts: repr(texts[0]))
def test_exactly_the_texts_of_a_choice_pass(
    grammars: Grammars, vocabulary: Vocabulary, texts: list[str]
) -> None:
    compiled = grammars.compile(Grammar("choice", json.dumps(texts)))
    for text in texts[:20]:
        assert _accepts(compiled.start(), vocabulary, text), text
        for other in (text + "x", text[:-1], "x" + text, text + text):
            expected = other in texts
            assert _accepts(compiled.start(), vocabulary, other) is expected, other
    for number in range(scaled(6, 100)):
        said = walk(compiled.start(), vocabulary, random.Random(number))
        assert said is not None
        assert said.decode() in texts


# ---- JSON objects -------------------------------------------------------------------------------


def test_a_json_object_is_any_object_and_nothing_else(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    compiled = grammars.compile(Grammar("json_object"))
    for text in ("{}", '{"a":1}', '{"a": {"b": [null, true, -0.5e-3, "\\n"]}}', '{"":""}'):
        assert _accepts(compiled.start(), vocabulary, text), text
    for text in ("[]", "1", '"a"', "null", "", "{", '{"a"}', "{'a':1}", '{"a":1,}', "{}{}"):
        assert not _accepts(compiled.start(), vocabulary, text), text
    for number in range(scaled(5, 60)):
        said = walk(compiled.start(), vocabulary, random.Random(number))
        assert said is not None
        assert isinstance(json.loads(said), dict)


# ---- Lark texts ---------------------------------------------------------------------------------

CALL = """
start: /[^<]*/ call*
// a call: "%json {" in a comment is no schema
call: "<call>" %json {
    "type": "object",
    "properties": {"name": {"const": "look"}, "of": {"type": "integer"}},
    "required": ["name", "of"], "additionalProperties": false
} "</call>" | "%json {"
"""


def test_schemas_stand_in_lark_texts(grammars: Grammars, vocabulary: Vocabulary) -> None:
    compiled = grammars.compile(Grammar("lark", CALL))
    assert compiled.warnings == ()
    call = '<call>{"name":"look","of":7}</call>'
    for text in ("Hello.", f"Hello.{call}", f"{call}{call}", "%json {", f"Hm.{call}"):
        assert _accepts(compiled.start(), vocabulary, text), text
    for text in ('<call>{"name":"other","of":7}</call>', "<call>{}</call>", "<call>"):
        assert not _accepts(compiled.start(), vocabulary, text), text


def test_schemas_in_lark_texts_are_bounded_and_noted_as_others_are(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    compiled = grammars.compile(
        Grammar("lark", 'start: "x" %json {"type": "object", "minProperties": 2, "not": {}}')
    )
    assert [word for word in ("minProperties", "`not`") for w in compiled.warnings if word in w]
    assert len(compiled.warnings) == 2
    matcher = compiled.start()
    for token in _spell(vocabulary, "x{" + " " * 24):
        matcher.consume(token)
    with pytest.raises(InvalidToken):
        matcher.consume(_spell(vocabulary, " ")[0])


def test_the_line_of_a_mistake_is_named(grammars: Grammars) -> None:
    with pytest.raises(GrammarRejected, match="line 3"):
        grammars.compile(Grammar("lark", 'start: a | b\na: "x"\nb: nowhere'))
    with pytest.raises(GrammarRejected, match="line 2"):
        grammars.compile(Grammar("lark", "start: a\na: %json {'a': 1}"))


def test_a_control_token_is_generated_only_where_it_is_named(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    texts = {t: vocabulary.piece(t, special=True) for t in range(vocabulary.size)}
    hidden = [t for t, text in texts.items() if not vocabulary.piece(t) and text.startswith(b"<")]
    named = next((t for t in hidden if t not in vocabulary.eog_tokens), None)
    if named is None:  # this vocabulary has no other control tokens
        assert set(hidden) <= set(vocabulary.eog_tokens)
        return
    name = vocabulary.piece(named, special=True).decode()
    matcher = grammars.start(Grammar("lark", f'start: "a" {name} "b"'))
    for token in _spell(vocabulary, "a"):
        assert not matcher.allows(named)
        matcher.consume(token)
    assert matcher.allows(named)
    matcher.consume(named)
    assert _accepts(matcher, vocabulary, "b")


def test_a_control_token_that_is_not_there_is_named(grammars: Grammars) -> None:
    with pytest.raises(GrammarRejected, match=r"`<\|no_such_token\|>`.*quotes"):
        grammars.compile(Grammar("lark", "start: <|no_such_token|>"))


def test_an_end_of_generation_ends_only_what_is_complete_with_it(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    end = vocabulary.eog_tokens[-1]
    name = vocabulary.piece(end, special=True).decode()
    for rest in ('"b"', "/[a-z]+/"):
        for named in (name, f"<[{end}]>", "<[*]>"):
            matcher = grammars.start(Grammar("lark", f'start: "a" {named} {rest}'))
            for token in _spell(vocabulary, "a"):
                matcher.consume(token)
            assert not any(map(matcher.allows, vocabulary.eog_tokens))
            assert not matcher.mask()[list(vocabulary.eog_tokens)].any()
    matcher = grammars.start(Grammar("lark", f'start: "a" {name} /[a-z]*/'))
    for token in _spell(vocabulary, "a"):
        matcher.consume(token)
    assert matcher.allows(end)
    assert matcher.mask()[end]
