"""The grammar of a call: what it has a model write is read back, and is as templates write it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jsonschema
import numpy as np
import pytest

from samovar import models as builtin
from samovar.chat.choosing import choose, starts_in_reasoning
from samovar.chat.constraint import constraint
from samovar.chat.families import FAMILIES, NONE
from samovar.chat.parser import Call, Content
from samovar.chat.shapes import Family, Frame, Slot
from samovar.errors import InvalidRequest, TemplateError
from samovar.native.grammar import Grammars
from samovar.native.matcher import Matcher
from samovar.native.model import Model, ModelOptions
from samovar.native.vocabulary import Vocabulary
from samovar.types import Grammar, ToolChoice
from tests.chat.turns import CASES, NAMES, TOOLS, pieces, source, template, tool, turn

CALLING = [family for family in FAMILIES.values() if family.frames]
SCHEMAS = {one["function"]["name"]: one["function"]["parameters"] for one in TOOLS}
REQUIRED = ToolChoice("required")


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    """That of the shipped model, in which the markers of other families are text."""
    path = builtin.path_of("samovar-mini")
    assert path is not None
    model = Model(path, ModelOptions(vocab_only=True))
    yield model.vocabulary
    model.close()


@pytest.fixture(scope="module")
def control(vocabulary: Vocabulary) -> dict[str, int]:
    return {
        text: vocabulary.tokenize(text, parse_special=True)[0] for text in vocabulary.control_texts
    }


@pytest.fixture(scope="module")
def grammars(vocabulary: Vocabulary) -> Grammars:
    return Grammars(vocabulary)


class Writer:
    """Writes under a grammar what closes something, wherever it may."""

    def __init__(self, vocabulary: Vocabulary, family: Family) -> None:
        self._vocabulary = vocabulary
        self._tokens = {vocabulary.piece(token): token for token in range(vocabulary.size)}
        frame = family.frames[0]
        self._reasoning = family.reasoning.close.strip().encode() if family.reasoning else b""
        tags = frame.parameters
        closers = [tags.wrap + tags.close] if tags else []
        closers += ['<|"|>', '"', frame.close, "}", "]", ")", ",", "true", "1", "C", "\n"]
        self._closers = [closer.encode() for closer in closers if closer]

    def write(self, matcher: Matcher, limit: int = 300) -> str:
        """The text of a turn."""
        said, ends = b"", list(self._vocabulary.eog_tokens)
        for _ in range(limit):
            allowed = matcher.mask()
            if allowed[ends].any():
                return said.decode()
            token = self._pick(allowed, said)
            matcher.consume(token)
            said += self._vocabulary.piece(token, special=True)
        raise AssertionError(f"it did not end: {said!r}")

    def _next(self, text: bytes) -> int:
        """The longest token that a text begins with, which may begin within a character."""
        return next(self._tokens[text[:n]] for n in range(32, 0, -1) if text[:n] in self._tokens)

    def _pick(self, allowed: np.ndarray, said: bytes) -> int:
        closers = self._closers
        if self._reasoning and self._reasoning not in said:
            closers = [self._reasoning, *closers]
        for begun in (True, False):
            for closer in closers:
                size = max(k for k in range(len(closer)) if said.endswith(closer[:k]))
                token = self._next(closer[size:])
                if allowed[token] and begun is (size > 0):
                    return token
        return int(np.flatnonzero(allowed)[0])


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize(
    "choice",
    [REQUIRED, ToolChoice("required", is_parallel=False), ToolChoice(name="get_weather")],
    ids=["required", "one", "named"],
)
@pytest.mark.parametrize("family", CALLING, ids=lambda family: family.name)
def test_a_call_that_is_demanded_is_written_and_read_back(
    grammars: Grammars,
    vocabulary: Vocabulary,
    control: dict[str, int],
    family: Family,
    choice: ToolChoice,
    begins: bool,  # noqa: FBT001
) -> None:
    begins = begins and family.reasoning is not None
    grammar = constraint(family, TOOLS, choice, control_tokens=control, starts_in_reasoning=begins)
    assert grammar is not None
    text = Writer(vocabulary, family).write(grammars.start(grammar))
    told = pieces(family, text, starts_in_reasoning=begins)
    calls = [piece for piece in told if isinstance(piece, Call)]
    assert len(calls) == 1
    assert not any(isinstance(piece, Content) for piece in told)
    jsonschema.validate(json.loads(calls[0].arguments), SCHEMAS[calls[0].name])
    assert choice.name in (None, calls[0].name)


def follows(grammars: Grammars, vocabulary: Vocabulary, grammar: Grammar | None, text: str) -> bool:
    """Whether a grammar allows a text, complete."""
    assert grammar is not None
    matcher = grammars.start(grammar)
    for token in vocabulary.tokenize(text):
        if not matcher.allows(token):
            return False
        matcher.consume(token)
    return any(map(matcher.allows, vocabulary.eog_tokens))


# Two forms of one call: the grammar has models write the other one. Gemma's sorts the keys.
OTHER_FORM = {"openai-gpt-oss-120b"}
CLOSED = ["one call", "two calls", "empty arguments"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHER_FORM])
def test_what_a_template_writes_for_a_call_follows_the_grammar(
    grammars: Grammars, vocabulary: Vocabulary, control: dict[str, int], name: str
) -> None:
    family = choose(source(name))
    sorted_tools = [
        tool("get_weather", {"days": {"type": "integer"}, "town": {"type": "string"}}, ["town"])
        if "gemma-4" in name
        else TOOLS[0],
        *TOOLS[1:],
    ]
    for case in CLOSED:
        try:
            head, text = turn(template(name), CASES[case])
        except TemplateError:
            continue
        if not any(isinstance(piece, Call) for piece in pieces(family, text)):
            continue
        text = text.strip().removesuffix("<|tool_response>")
        for choice in (REQUIRED, ToolChoice("auto")):
            grammar = constraint(
                family,
                sorted_tools,
                choice,
                control_tokens=control,
                starts_in_reasoning=starts_in_reasoning(family, head),
            )
            if grammar is not None:
                assert follows(grammars, vocabulary, grammar, text)


def hermes(choice: ToolChoice, control: dict[str, int]) -> Grammar | None:
    """The grammar of a turn of the most common family."""
    return constraint(FAMILIES["hermes"], TOOLS, choice, control_tokens=control)


GOOD = '<tool_call>\n{"name": "get_weather", "arguments": {"town": "Visby"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("Well, a < b.", True),
        (f"Let me see.\n{GOOD}", True),
        (f"<think>\na\n</think>\n\n{GOOD}\n{GOOD}", True),
        ("<tool_call>", False),
        (GOOD.replace("get_weather", "sing"), False),
        (GOOD.replace("town", "city"), False),
        (GOOD.replace('"Visby"', "3"), False),
        (f"{GOOD} and <tool_call>no", False),
    ],
)
def test_a_call_that_is_begun_must_be_one(
    grammars: Grammars,
    vocabulary: Vocabulary,
    control: dict[str, int],
    text: str,
    fits: bool,  # noqa: FBT001
) -> None:
    assert follows(grammars, vocabulary, hermes(ToolChoice("auto"), control), text) is fits


def test_one_call_is_not_two(
    grammars: Grammars, vocabulary: Vocabulary, control: dict[str, int]
) -> None:
    both = f"{GOOD}\n{GOOD}"
    for mode in ("auto", "required"):
        assert follows(grammars, vocabulary, hermes(ToolChoice(mode), control), both)
        one = hermes(ToolChoice(mode, is_parallel=False), control)
        assert not follows(grammars, vocabulary, one, both)
        assert follows(grammars, vocabulary, one, GOOD)


def test_no_call_is_begun_where_none_is_wanted(
    grammars: Grammars, vocabulary: Vocabulary, control: dict[str, int]
) -> None:
    grammar = hermes(ToolChoice("none"), control)
    assert follows(grammars, vocabulary, grammar, "A <tool> call.")
    assert not follows(grammars, vocabulary, grammar, GOOD)


@pytest.mark.parametrize("mode", ["auto", "required", "none"])
def test_markers_that_are_control_tokens_are_named(
    grammars: Grammars, vocabulary: Vocabulary, control: dict[str, int], mode: str
) -> None:
    opener = "<|im_start|>"
    family = Family("own", frames=(Frame((opener, Slot.NAME, "!", Slot.JSON)),))
    choice = ToolChoice(mode)  # type: ignore[arg-type]
    grammar = constraint(family, TOOLS[1:2], choice, control_tokens=control)
    assert grammar is not None
    matcher = grammars.start(grammar)
    assert matcher.allows(control[opener]) is (mode != "none")
    assert matcher.allows(vocabulary.tokenize("a")[0]) is (mode != "required")
    if mode != "none":
        for token in [control[opener], *vocabulary.tokenize("get_time!{}")]:
            assert matcher.allows(token)
            matcher.consume(token)


def test_a_call_that_cannot_be_is_refused() -> None:
    for family, tools, choice in (
        (NONE, TOOLS, REQUIRED),
        (FAMILIES["hermes"], [], REQUIRED),
        (FAMILIES["hermes"], TOOLS, ToolChoice(name="sing")),
    ):
        with pytest.raises(InvalidRequest):
            constraint(family, tools, choice, control_tokens={})


def test_where_calls_do_not_show_at_once_nothing_is_watched_for() -> None:
    for name in ("llama3", "lfm2", "none"):
        grammar = constraint(FAMILIES[name], TOOLS, ToolChoice("auto"), control_tokens={})
        assert (grammar is None) is (name != "lfm2")
