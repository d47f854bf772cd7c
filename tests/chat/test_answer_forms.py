"""Answers of a form: what may stand before them, in every family, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from samovar import models as built_in
from samovar.chat.constraint import constraint
from samovar.chat.families import FAMILIES
from samovar.chat.parser import Content, Reasoning
from samovar.chat.shapes import Family
from samovar.native.grammar import Grammars
from samovar.native.lark import answer_text
from samovar.native.model import Model, ModelOptions
from samovar.native.vocabulary import Vocabulary
from samovar.types import Grammar, ToolChoice
from tests.chat.turns import TOOLS, pieces

COLOURS = Grammar("choice", '["red", "green}"]')
FORMS = {
    "choice": COLOURS,
    "regex": Grammar("regex", "red|green}"),
    "gbnf": Grammar("gbnf", 'root ::= "red" | "green}"'),
    "lark": Grammar("lark", 'start: colour\ncolour: "red" | "green}"'),
    "schema": Grammar("json_schema", '{"enum": ["red"]}'),
    "object": Grammar("json_object"),
}
RIGHT = {"schema": '"red"', "object": '{"a": 1}'}
FREE = ToolChoice()


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    path = built_in.path_of("samovar-mini")
    assert path is not None
    model = Model(path, ModelOptions(vocab_only=True))
    yield model.vocabulary
    model.close()


@pytest.fixture(scope="module")
def grammars(vocabulary: Vocabulary) -> Grammars:
    return Grammars(vocabulary)


class Judge:
    """Says of texts whether a grammar takes them to the end."""

    def __init__(self, grammars: Grammars, vocabulary: Vocabulary, grammar: Grammar | None) -> None:
        assert grammar is not None
        self._compiled = grammars.compile(grammar)
        self._vocabulary = vocabulary

    def takes(self, text: str) -> bool:
        matcher = self._compiled.start()
        for token in self._vocabulary.tokenize(text, add_special=False, parse_special=True):
            if not matcher.allows(token):
                return False
            matcher.consume(token)
        return any(matcher.allows(end) for end in self._vocabulary.eog_tokens)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_reasoning_is_free_and_the_answer_is_not(
    grammars: Grammars, vocabulary: Vocabulary, family: Family
) -> None:
    control = vocabulary.control_tokens
    made = {
        begins: constraint(
            family,
            TOOLS,
            ToolChoice("none"),
            control_tokens=control,
            starts_in_reasoning=begins,
            answer=answer_text(COLOURS),
        )
        for begins in (False, True)
    }
    judge = Judge(grammars, vocabulary, made[False])
    head, tail = family.answer
    for answer in ("red", "green}"):
        assert judge.takes(answer)
        assert judge.takes(head + answer + tail)
    for wrong in ("blue", "red red", "so red", head + "blue"):
        assert not judge.takes(wrong)
    marks = family.reasoning
    if marks is None:
        return
    inside = Judge(grammars, vocabulary, made[True])
    for rest in (f"{marks.close}{marks.after}", f"{marks.close.strip()}{marks.after.strip()}"):
        thought = f"Blue? No.{rest}{head}red{tail}"
        assert judge.takes(marks.open + thought)
        assert inside.takes(thought)
        assert not judge.takes(thought)
        assert not inside.takes(f"Blue? No.{rest}{head}blue{tail}")
        told = pieces(family, thought, starts_in_reasoning=True)
        assert told == [Reasoning("Blue? No."), Content("red")]
    assert not inside.takes("red")


@pytest.mark.parametrize("kind", FORMS)
def test_every_kind_of_form_stands_behind_reasoning(
    grammars: Grammars, vocabulary: Vocabulary, kind: str
) -> None:
    grammar = constraint(
        FAMILIES["hermes"],
        (),
        FREE,
        control_tokens=vocabulary.control_tokens,
        answer=answer_text(FORMS[kind]),
    )
    judge = Judge(grammars, vocabulary, grammar)
    right = RIGHT.get(kind, "red")
    assert judge.takes(f"<think>\nHm.\n</think>\n\n{right}")
    assert judge.takes(right)
    assert not judge.takes("<think>\nHm.\n</think>\n\nblue")
    assert not judge.takes("blue")
    plain = 'root ::= "red"'
    assert answer_text(plain) == answer_text(Grammar("gbnf", plain))


@pytest.mark.parametrize(
    "family",
    [one for one in FAMILIES.values() if one.frames],
    ids=lambda family: family.name,
)
def test_a_call_may_come_instead(
    grammars: Grammars, vocabulary: Vocabulary, family: Family
) -> None:
    control = vocabulary.control_tokens
    asked = ToolChoice(name="get_time")
    silent = replace(family, reasoning=None)
    one = constraint(silent, TOOLS, asked, control_tokens=control)
    assert one is not None
    call = _forced(grammars, vocabulary, one)
    either = Judge(
        grammars,
        vocabulary,
        constraint(family, TOOLS, FREE, control_tokens=control, answer=answer_text(COLOURS)),
    )
    assert either.takes("red")
    assert either.takes(call)
    assert not either.takes(f"red{call}")


def _forced(grammars: Grammars, vocabulary: Vocabulary, grammar: Grammar) -> str:
    """What is written where nothing is chosen: the least token that is allowed, unless it ends."""
    matcher, said = grammars.start(grammar), b""
    for _ in range(400):
        mask = matcher.mask()
        if mask[list(vocabulary.eog_tokens)].any():
            return said.decode()
        allowed = mask.nonzero()[0].tolist()
        wanted = [t for t in allowed if vocabulary.piece(t, special=True) not in (b"\n", b" ")]
        token = _plain(vocabulary, wanted or allowed)
        matcher.consume(token)
        said += vocabulary.piece(token, special=True)
    raise AssertionError(f"it did not end: {said!r}")


def _plain(vocabulary: Vocabulary, tokens: list[int]) -> int:
    """What closes something, if anything does."""
    closes = [t for t in tokens if vocabulary.piece(t, special=True)[:1] in (b"}", b"]", b")")]
    return min(closes or tokens)
