"""Forced tokens: they must come, are spelt as the tokenizer spells, and asking changes nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from samovar.errors import GrammarRejected
from samovar.native.context import ContextOptions
from samovar.native.grammar import Grammars
from samovar.native.llama import LlamaBackend
from samovar.native.matcher import Matcher
from samovar.native.model import Model, ModelOptions
from samovar.native.vocabulary import Vocabulary
from samovar.types import Grammar, SamplingParams
from tests.conftest import Models, scaled, shared_vocabularies

REAL = [path for path in shared_vocabularies() if "bert" not in path.name]


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


def _spelt(vocabulary: Vocabulary, text: str) -> list[int]:
    """The ids of a text that goes on from another one: behind a line break, say."""
    before = vocabulary.tokenize("\n", add_special=False)
    whole = vocabulary.tokenize(f"\n{text}", add_special=False)
    if vocabulary.kind == "spm":
        assert whole[: len(before)] == before
        return whole[len(before) :]
    return vocabulary.tokenize(text, add_special=False)


def _literal(text: str, rest: str = "") -> Grammar:
    return Grammar("lark", f"start: {json.dumps(text, ensure_ascii=False)} {rest}")


# ---- how they are spelt -------------------------------------------------------------------------

TEXTS = [
    "hello world, this is it",
    '{"name_of_person": "Ann"}',
    "def f(x):\n    return x + 1\n",
    "isanswer",
    "12345678",
    "na\u00efve \u6f22\u5b57 \U0001f999",
    "a",
    "the end.   ",
    "don't <|x|> </s",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_without_alternative_is_forced_whole_as_the_tokenizer_spells_it(
    grammars: Grammars, vocabulary: Vocabulary, text: str
) -> None:
    matcher = grammars.start(_literal(text))
    expected = _spelt(vocabulary, text)
    assert matcher.forced(1000) == expected
    for place, token in enumerate(expected):
        said = vocabulary.detokenize(expected[:place])
        if said == said.decode("utf-8", "ignore").encode():  # not in the middle of a character
            assert matcher.forced(1000)[:1] == [token], place
        matcher.consume(token)
    assert matcher.forced(1000) == []
    assert matcher.allows(vocabulary.eog_tokens[0])


PARTS = (
    *("the", "answer", "is", "name_of_person", "{", '"', ":", ", ", "[", "]", "}", " ", "  "),
    *(
        "\n",
        "\n\n",
        "\t",
        "    ",
        "1",
        "23",
        "x",
        "\u00e9",
        "\u6f22\u5b57",
        "'s",
        "don't",
        "(",
        ")",
    ),
    *(
        ".",
        "...",
        "--",
        "==",
        "/*",
        "\U0001f999",
        "Abc",
        "ABC",
        "_",
        "id",
        "\\",
        "<",
        "think",
        "</",
    ),
)
LETTERS = "abcdefghijklmnopqrstuvwxyz  "
OTHERS = "abc \n\t\"':{}\u00e9\u6f22.,-_1"
RESTS: list[tuple[str, Callable[[random.Random], str]]] = [
    ("/[a-z ]{0,12}/", lambda rng: "".join(rng.choices(LETTERS, k=rng.randrange(13)))),
    ("/[0-9]{1,5}/", lambda rng: str(rng.randrange(99_999))),
    ("/[^x]{0,8}/", lambda rng: "".join(rng.choices(OTHERS, k=rng.randrange(9)))),
    ("/ yes| no|maybe/", lambda rng: rng.choice([" yes", " no", "maybe"])),
    ("/[ \\n]{0,4}z/", lambda rng: "".join(rng.choices(" \n", k=rng.randrange(5))) + "z"),
]


def test_forced_tokens_are_those_of_the_tokenizer_however_the_text_goes_on(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    rng, total = random.Random(7), 0
    for _ in range(scaled(60, 3_000)):
        text = "".join(rng.choices(PARTS, k=rng.randrange(1, 8)))
        rest, more = rng.choice(RESTS)
        forced = grammars.start(_literal(text, rest)).forced(1000)
        total += len(forced)
        for _ in range(6):
            spelt = _spelt(vocabulary, text + more(rng))
            assert spelt[: len(forced)] == forced, (text, forced, spelt)
    assert total > scaled(60, 3_000)


def test_names_of_properties_are_forced(grammars: Grammars, vocabulary: Vocabulary) -> None:
    schema = {"properties": {"description": {"type": "string"}}, "required": ["description"]}
    matcher = grammars.start(Grammar("json_schema", json.dumps({"type": "object", **schema})))
    for byte in b'{"':
        matcher.consume(
            next(t for t in range(vocabulary.size) if vocabulary.piece(t) == b"%c" % byte)
        )
    forced = matcher.forced(1000)
    assert forced
    assert b'description"'.startswith(vocabulary.detokenize(forced))


# ---- where there are none -----------------------------------------------------------------------


def test_nothing_is_forced_where_the_text_may_end_or_differ(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    for rest in ("start: /[a-z]+/", 'start: "yes" | "no"', 'start: ("x" "y")*', 'start: ""'):
        assert grammars.start(Grammar("lark", rest)).forced(100) == [], rest
    matcher = grammars.start(Grammar("lark", 'start: "q" ("zz")?'))
    for token in matcher.forced(100):
        matcher.consume(token)
    while not matcher.allows(vocabulary.eog_tokens[0]):
        matcher.consume(int(np.flatnonzero(matcher.mask())[0]))
    assert matcher.forced(100) == []


def test_an_end_of_generation_is_never_forced(grammars: Grammars, vocabulary: Vocabulary) -> None:
    end = vocabulary.eog_tokens[-1]
    name = vocabulary.piece(end, special=True).decode()
    matcher = grammars.start(Grammar("lark", f'start: "hello there" {name}'))
    forced = matcher.forced(100)
    assert forced == _spelt(vocabulary, "hello there")
    for token in forced:
        matcher.consume(token)
    assert matcher.forced(100) == []
    assert matcher.allows(end)
    assert np.flatnonzero(matcher.mask()).tolist() == [end]
    matcher.consume(end)


def test_control_tokens_that_are_named_are_forced(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    ends = vocabulary.eog_tokens
    texts = {t: vocabulary.piece(t, special=True) for t in range(vocabulary.size)}
    hidden = [t for t, text in texts.items() if not vocabulary.piece(t) and text.startswith(b"<")]
    named = next((t for t in hidden if t not in ends), None)
    if named is None:  # this vocabulary has no other control tokens
        assert set(hidden) <= set(ends)
        return
    name = texts[named].decode()
    matcher = grammars.start(Grammar("lark", f'start: {name} "isanswer" {name} /[a-z]+/'))
    expected = [named, *_spelt(vocabulary, "isanswer"), named]
    seen = []
    while forced := matcher.forced(100):
        for token in forced:
            matcher.consume(token)
        seen += forced
    assert seen == expected


def test_no_more_than_asked_are_forced(grammars: Grammars) -> None:
    matcher = grammars.start(_literal("one two three four five"))
    whole = matcher.forced(1000)
    assert len(whole) > 3
    for limit in (-1, 0, 1, 3):
        assert matcher.forced(limit) == whole[: max(0, limit)]


def test_a_very_long_text_is_forced_in_parts(grammars: Grammars, vocabulary: Vocabulary) -> None:
    text = "".join(f"line {number} of many\n" for number in range(600))
    matcher, seen, parts = grammars.start(_literal(text)), [], 0
    while forced := matcher.forced(100_000):
        for token in forced:
            matcher.consume(token)
        seen += forced
        parts += 1
    assert seen == _spelt(vocabulary, text)
    assert 1 < parts < 10


# ---- what asking changes ------------------------------------------------------------------------

MIXED = """start: "The answer is " NUMBER " (" %json {"type": "object", "properties":
{"why": {"enum": ["because", "become"]}}, "required": ["why"], "additionalProperties": false} ")."
NUMBER: /[0-9]{1,4}/"""


@pytest.mark.parametrize("ends", ["as it may", "as named"])
def test_asking_for_forced_tokens_changes_nothing(
    grammars: Grammars, vocabulary: Vocabulary, ends: str
) -> None:
    source, named = MIXED, vocabulary.piece(vocabulary.eog_tokens[0], special=True).decode()
    if ends == "as named":
        source = source.replace('")."', f'")." {named}')
    compiled = grammars.compile(Grammar("lark", source))
    for seed in range(scaled(3, 40)):
        asked, unasked, rng = compiled.start(), compiled.start(), random.Random(seed)
        for _ in range(200):
            forced = asked.forced(rng.randrange(1, 9))
            mask = unasked.mask()
            assert np.array_equal(asked.mask(), mask)
            assert forced == asked.forced(len(forced) or 1)[: len(forced)]
            token = rng.choice(forced[:1] or np.flatnonzero(mask).tolist())
            assert mask[token]
            asked.consume(token)
            unasked.consume(token)
            if token in vocabulary.eog_tokens:
                break
        else:
            raise AssertionError("it did not end")


def test_every_forced_token_may_be_consumed(grammars: Grammars, vocabulary: Vocabulary) -> None:
    compiled = grammars.compile(Grammar("lark", MIXED))
    for seed in range(scaled(3, 40)):
        rng, matcher, said = random.Random(seed), compiled.start(), b""
        while not matcher.allows(vocabulary.eog_tokens[0]):
            forced = matcher.forced(100)
            for token in forced or [rng.choice(np.flatnonzero(matcher.mask()).tolist())]:
                matcher.consume(token)
                said += vocabulary.piece(token)
        assert said.startswith(b"The answer is ")
        assert said.endswith(b").")


def _repeat(matcher: Matcher, token: int) -> None:
    for _ in range(3000):
        matcher.consume(token)


def test_what_has_failed_forces_nothing(grammars: Grammars, vocabulary: Vocabulary) -> None:
    matcher = grammars.start(Grammar("lark", "start: e\ne: e e | /[a-z]/"))
    token = next(t for t in range(vocabulary.size) if vocabulary.piece(t) == b"a")
    with pytest.raises(GrammarRejected):
        _repeat(matcher, token)
    assert matcher.forced(10) == []


# ---- in a sampler -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backend(models: Models) -> Iterator[LlamaBackend]:
    options = ContextOptions(context_length=256, threads=1)
    with LlamaBackend.open(models(), context=options, proves_state=False) as opened:
        yield opened


YES = 'root ::= "yes, indeed" [a-z]*'


def test_a_sampler_tells_what_its_grammar_forces(backend: LlamaBackend) -> None:
    sampler = backend.new_sampler(SamplingParams(grammar=YES))
    forced = sampler.forced(100)
    assert b"yes, indeed".startswith(backend.detokenize(forced))
    assert len(forced) > 2
    for token in forced:
        sampler.accept(token)
    assert sampler.forced(100) == []


def test_without_a_grammar_nothing_is_forced(backend: LlamaBackend) -> None:
    assert backend.new_sampler(SamplingParams()).forced(100) == []


def test_tokens_that_are_to_be_scored_are_not_forced(backend: LlamaBackend) -> None:
    sampler = backend.new_sampler(SamplingParams(grammar=YES, logprobs=2))
    assert sampler.forced(100) == []


def test_a_token_that_is_banned_is_not_forced(backend: LlamaBackend) -> None:
    forced = backend.new_sampler(SamplingParams(grammar=YES)).forced(100)
    banned = SamplingParams(grammar=YES, logit_bias={forced[1]: float("-inf")})
    assert backend.new_sampler(banned).forced(100) == forced[: forced.index(forced[1])]
