"""Grammars: what they force, what they refuse, and that nothing in them takes the process down."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from samovar.errors import GrammarRejected, InvalidRequest, InvalidToken
from samovar.native.context import ContextOptions
from samovar.native.grammar import Grammars
from samovar.native.interface import Row, RowFailed, Sampled, Stepped
from samovar.native.llama import GREEDY, LlamaBackend
from samovar.native.matcher import Matcher
from samovar.native.model import Model, ModelOptions
from samovar.native.vocabulary import Vocabulary
from samovar.types import Grammar, SamplingParams
from tests.conftest import Models, shared_vocabularies
from tests.native import hostile

# One of each kind that matters, with end tokens of more than one kind.
REAL = [path for path in shared_vocabularies() if path.stem.endswith(("llama-bpe", "phi-3"))]
YES_NO = 'root ::= "yes" | "no"'


@pytest.fixture
def backend(models: Models) -> Iterator[LlamaBackend]:
    """A tiny model with two sequences."""
    options = ContextOptions(context_length=256, num_sequences=2, threads=1)
    with LlamaBackend.open(models(), context=options, proves_state=False) as opened:
        yield opened


def _until_end(backend: LlamaBackend, limit: int = 40) -> bytes:
    tokens = []
    for _ in range(limit):
        sampled = backend.decode_one()
        if sampled.is_eog:
            return backend.detokenize(tokens)
        tokens.append(sampled.token)
    raise AssertionError("it did not end")


@pytest.mark.parametrize("temperature", [0.0, 0.7, 5.0])
def test_a_yes_no_grammar_gives_exactly_one_of_them(
    backend: LlamaBackend, temperature: float
) -> None:
    params = SamplingParams(grammar=YES_NO, temperature=temperature, seed=3)
    said = set()
    for prompt in ("Is it?", "Really?", "abc", "x"):
        backend.seq_rm(0)
        backend.configure_sampler(params)
        backend.prefill(backend.tokenize(prompt))
        said.add(_until_end(backend))
    assert said <= {b"yes", b"no"}


def test_the_next_request_is_free_again(backend: LlamaBackend) -> None:
    prompt = backend.tokenize("Is it?")
    backend.prefill(prompt)
    free = [backend.decode_one().token for _ in range(8)]
    backend.seq_rm(0)
    backend.set_grammar(YES_NO)
    backend.prefill(prompt)
    assert _until_end(backend) in (b"yes", b"no")
    backend.seq_rm(0)
    backend.clear_sampler()
    backend.prefill(prompt)
    assert [backend.decode_one().token for _ in range(8)] == free


def test_a_grammar_of_one_row_leaves_the_other_free(backend: LlamaBackend) -> None:
    prompt = backend.tokenize("Is it?")
    bound = backend.new_sampler(SamplingParams(grammar='root ::= "no"+'))
    free = backend.new_sampler(SamplingParams())
    rows = [Row(0, prompt, bound), Row(1, prompt, free)]
    texts: list[list[int]] = [[], []]
    for _ in range(6):
        stepped = backend.step(rows)
        assert isinstance(stepped, Stepped)
        rows = []
        for row, result in enumerate(stepped.results):
            assert isinstance(result, Sampled)
            texts[row].append(result.token)
            rows.append(Row(row, [result.token], (bound, free)[row]))
    assert backend.detokenize(texts[0]).startswith(b"no")
    assert not backend.detokenize(texts[1]).startswith(b"no")


def test_a_bad_grammar_keeps_the_sampler_that_was(backend: LlamaBackend) -> None:
    backend.set_grammar(YES_NO)
    with pytest.raises(GrammarRejected):
        backend.set_grammar('root ::= "unbalanced')
    backend.set_grammar(None)
    backend.prefill(backend.tokenize("Is it?"))
    assert _until_end(backend) in (b"yes", b"no")


def test_the_mask_is_what_asking_for_every_token_says(backend: LlamaBackend) -> None:
    grammars = Grammars(backend.vocabulary)
    for gbnf in (YES_NO, 'root ::= [a-z]+ " " [0-9]{2,3}', 'root ::= ("ab" | "a" "c")* "d"'):
        matcher = grammars.start(gbnf)
        for _ in range(4):
            mask = matcher.mask()
            asked = [matcher.allows(token) for token in range(backend.vocabulary.size)]
            assert mask.tolist() == asked
            matcher.consume(asked.index(True))


def test_the_end_is_allowed_where_the_grammar_may_end_and_only_there(
    backend: LlamaBackend,
) -> None:
    ends = backend.vocabulary.eog_tokens
    assert len(ends) > 1
    matcher = Grammars(backend.vocabulary).start('root ::= "a" "b"?')
    (a,) = backend.tokenize("a", add_special=False)
    (b,) = backend.tokenize("b", add_special=False)
    assert not any(map(matcher.allows, ends))
    matcher.consume(a)
    assert all(map(matcher.allows, ends))
    assert matcher.allows(b)
    matcher.consume(b)
    assert all(map(matcher.allows, ends))
    assert not matcher.allows(b)
    matcher.consume(ends[0])


def test_a_forbidden_token_is_an_error_and_changes_nothing(backend: LlamaBackend) -> None:
    matcher = Grammars(backend.vocabulary).start(YES_NO)
    (wrong,) = backend.tokenize("q", add_special=False)
    (y,) = backend.tokenize("y", add_special=False)
    for _ in range(3):
        with pytest.raises(InvalidToken):
            matcher.consume(wrong)
    assert matcher.allows(y)
    matcher.consume(y)


# ---- what a grammar lets through ----------------------------------------------------------------


@pytest.fixture(params=["own", "spm", *REAL], ids=lambda p: getattr(p, "stem", p), scope="module")
def vocabulary(request: pytest.FixtureRequest, models: Models) -> Iterator[Vocabulary]:
    """Vocabularies small and real."""
    if isinstance(request.param, Path):
        path = request.param
    else:
        path = models.vocabulary(None if request.param == "own" else request.param)
    model = Model(path, ModelOptions(vocab_only=True))
    yield model.vocabulary
    model.close()


TEXTS = (b"yes", b"yesterday", b"no", "na\u00efve".encode(), b"a<think>b", b" 42\n")
GBNF = r"""root ::= "yes" | "yesterday" | "no" | "na\u00EFve" | "a<think>b" | start
start ::= [ ] "42\n"  # a comment: start ::= "x"
"""


def _allowed(pieces: dict[int, bytes], ends: tuple[int, ...], so_far: bytes) -> set[int]:
    """Which tokens may follow, by looking at the texts themselves."""
    rests = [text[len(so_far) :] for text in TEXTS if text.startswith(so_far)]
    starts = {rest[:length] for rest in rests for length in range(1, len(rest) + 1)}
    return {t for t, piece in pieces.items() if piece in starts}.union(ends if b"" in rests else ())


def test_a_token_is_allowed_if_its_bytes_lead_to_a_text_of_the_grammar(
    vocabulary: Vocabulary,
) -> None:
    grammars, ends = Grammars(vocabulary), vocabulary.eog_tokens
    pieces = {token: vocabulary.piece(token) for token in range(vocabulary.size)}
    rng = random.Random(5)
    for _ in range(8):
        matcher, so_far = grammars.start(GBNF), b""
        for _ in range(12):
            expected = _allowed(pieces, ends, so_far)
            assert set(np.flatnonzero(matcher.mask()).tolist()) == expected
            token = rng.choice(sorted(expected))
            assert matcher.allows(token)
            matcher.consume(token)
            if token in ends:
                break
            so_far += pieces[token]
        else:
            raise AssertionError("it did not end")


def test_every_end_is_allowed_at_the_end_and_again_after_it(vocabulary: Vocabulary) -> None:
    ends = vocabulary.eog_tokens
    matcher = Grammars(vocabulary).start('root ::= ""')
    for _ in range(2):
        assert np.flatnonzero(matcher.mask()).tolist() == list(ends)
        assert [matcher.allows(end) for end in ends] == [True] * len(ends)
        matcher.consume(ends[-1])


def test_control_tokens_are_no_text(vocabulary: Vocabulary) -> None:
    hidden = [token for token in range(vocabulary.size) if not vocabulary.piece(token)]
    mask = Grammars(vocabulary).start("root ::= [^x] .*").mask()
    assert hidden
    assert not mask[hidden].any()
    assert mask.sum() > vocabulary.size / 3


def test_tokens_that_are_not_there_are_not_allowed(vocabulary: Vocabulary) -> None:
    matcher = Grammars(vocabulary).start("root ::= .*")
    for token in (-1, vocabulary.size, 2**31, 2**40):
        assert not matcher.allows(token)
        with pytest.raises(InvalidToken):
            matcher.consume(token)
    assert matcher.allows(vocabulary.tokenize("a", add_special=False)[-1])


def test_markup_can_be_generated(backend: LlamaBackend) -> None:
    backend.set_grammar('root ::= "<think>" [a-z]{3} "</think>"')
    backend.prefill(backend.tokenize("Is it?"))
    text = _until_end(backend)
    assert re.fullmatch(rb"<think>[a-z]{3}</think>", text)


def test_temperature_and_seed_decide_under_a_grammar_too(backend: LlamaBackend) -> None:
    def run(seed: int) -> bytes:
        backend.seq_rm(0)
        params = SamplingParams(grammar="root ::= [a-z]{12}", temperature=1.5, seed=seed)
        backend.configure_sampler(params)
        backend.prefill(backend.tokenize("Is it?"))
        return _until_end(backend)

    texts = [run(seed) for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_a_grammar_that_fails_in_a_step_fails_its_row_alone(backend: LlamaBackend) -> None:
    prompt = backend.tokenize("Is it?")
    stuck = SamplingParams(grammar='root ::= ""', ignore_eos=True)
    rows = [Row(0, prompt, backend.new_sampler(stuck)), Row(1, prompt, backend.new_sampler(GREEDY))]
    stepped = backend.step(rows)
    assert isinstance(stepped, Stepped)
    failed, picked = stepped.results
    assert isinstance(failed, RowFailed)
    assert isinstance(failed.error, InvalidRequest)
    assert isinstance(picked, Sampled)


def test_what_becomes_too_much_work_is_an_error_and_never_an_end(backend: LlamaBackend) -> None:
    matcher = Grammars(backend.vocabulary).start("root ::= e\ne ::= e e | [a-z]")
    (a,) = backend.tokenize("a", add_special=False)
    assert 100 < _steps_until_refused(matcher, a) < 600  # each would soon take seconds
    with pytest.raises(GrammarRejected) as refusal:
        matcher.consume(a)
    assert "\n" not in str(refusal.value)
    for use in (matcher.mask, lambda: matcher.allows(backend.vocabulary.eog_tokens[0])):
        with pytest.raises(GrammarRejected):
            use()


def _steps_until_refused(matcher: Matcher, token: int) -> int:
    for step in range(3000):
        try:
            matcher.consume(token)
        except GrammarRejected:
            return step
    return 3000


# ---- how grammars are written ------------------------------------------------------------------

WRITTEN = {
    r'root ::= "\u0061\U0001F999"': "a\U0001f999",
    r'root ::= "\x61\"\\\n"': 'a"\\\n',
    r"root ::= [\u005D] [\]] [\x5b] [[]": "]][[",
    'root::="a"': "a",
    'root ::= # why\r\n  "a" #"b"\r\n': "a",
    'root ::= start\nstart ::= "a" # start: "b"': "a",
    'some-Rule ::= "a"\nroot ::= some-Rule': "a",
    'root ::= (\n"a" |\n"b"\n)': "b",
    'root ::= "a"{2} "b"{0,1} "c"{1,}': "aacc",
    'root ::= "#" "(" ")" "::="': "#()::=",
    'root ::= [^"\\\\\\x7F\\x00-\\x1F]': "a",
    'root ::= "a" root "b" | ""': "aaabbb",
    'root ::= "\u00e9" | "\u6f22"': "\u6f22",
}


@pytest.mark.parametrize("gbnf", WRITTEN)
def test_a_grammar_is_read_as_llama_cpp_reads_it(backend: LlamaBackend, gbnf: str) -> None:
    matcher = Grammars(backend.vocabulary).start(gbnf)
    for token in backend.tokenize(WRITTEN[gbnf], add_special=False):
        matcher.consume(token)
    assert matcher.allows(backend.vocabulary.eog_tokens[0])
    assert not matcher.allows(backend.tokenize("$", add_special=False)[0])


@pytest.mark.parametrize(
    "text",
    [
        'start: "a"',
        '%llguidance {}\nstart: "a"',
        'root ::= "a"\n%json {}',
        "root ::= /a/",
        'root ::= "a" <|im_end|>',
        r'root ::= "\uD800"',
        r'root ::= "\U00110000"',
        'root ::= ("a"*)*',
        'root ::= "' + "x" * 3000,
        "root ::= " + "x" * 3000,
        'root ::= "a"{-1}',
    ],
)
def test_what_is_not_gbnf_is_refused_in_one_short_line(backend: LlamaBackend, text: str) -> None:
    with pytest.raises(GrammarRejected) as refusal:
        Grammars(backend.vocabulary).start(text)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_a_long_list_in_a_rule_of_its_own_is_no_trouble(backend: LlamaBackend) -> None:
    words = " | ".join(f'"{number}"' for number in range(10_000))
    matcher = Grammars(backend.vocabulary).start(f"root ::= word\nword ::= {words}")
    for token in backend.tokenize("9999", add_special=False):
        matcher.consume(token)
    assert matcher.allows(backend.vocabulary.eog_tokens[0])


def test_grammars_are_kept_and_do_not_share_their_progress(backend: LlamaBackend) -> None:
    grammars = Grammars(backend.vocabulary)
    (y,) = backend.tokenize("y", add_special=False)
    first, second = grammars.start(YES_NO), grammars.start(YES_NO)
    first.consume(y)
    assert not first.allows(y)
    assert second.allows(y)
    assert grammars.start(YES_NO).allows(y)
    for number in range(40):  # more than are kept
        grammars.start(f'root ::= "{number}"')
    assert grammars.start(YES_NO).allows(y)


# ---- hostile ones ------------------------------------------------------------------------------


def _chain(length: int, rest: str) -> str:
    rules = [f"r{place} ::= {rest.format(place + 1)}" for place in range(length)]
    return "\n".join(["root ::= r0", *rules, f'r{length} ::= "a"'])


HOSTILE = {
    "unbalanced quotes": 'root ::= "a',
    "unbalanced brackets": 'root ::= ("a" | "b"',
    "left-recursive": 'root ::= root "a" | "a"',
    "only itself": "root ::= root",
    "bounds the wrong way": 'root ::= "a"{5,2}',
    "deeply nested": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000,
    "nested in a literal": 'root ::= "' + "(" * 20_000 + '"',
    "empty": "",
    "blank": " \n\t ",
    "no root": 'a ::= "b"',
    "undefined rule": "root ::= nowhere",
    "NUL": 'root ::= "a\x00b"',
    "lone surrogate": 'root ::= "\udcff"',
    "huge": "root ::= " + " | ".join(f'"{n}"' for n in range(200_000)),
    "repeated repetition": 'root ::= (("a"{1,1000}){1,1000}){1,1000}',
    "huge repetition": 'root ::= "a"{1,1000000000}',
    "empty loop": 'root ::= ("")*',
    "loop of loops": 'root ::= (("a"*)*)*',
    "huge class": "root ::= [" + "".join(map(chr, range(256, 20_000))) + "]",
    "ambiguous": 'root ::= a\na ::= ("a" | "a" "a" | a a)+',
    "not a grammar": "hello",
    "unclosed class": "root ::= [a-",
    "bad escape": 'root ::= "\\x"',
    "long chain": _chain(8000, "r{}"),
    "chain of brackets": _chain(450, '("b" ' * 10 + "r{}" + ")?" * 10),
    "long chain the other way": "\n".join(reversed(_chain(2500, "r{}").splitlines())),
    "doubling": _chain(40, "r{0} r{0}"),
    "very ambiguous": "root ::= e\ne ::= e e e | [a-z] | .",
    "all optional": "root ::= " + "[a-z]? " * 8_000,
    "many alternatives": "root ::= " + " | ".join(f'"{n}"' for n in range(20_000)),
    "long literal": 'root ::= "' + "a" * 200_000 + '"',
    "long literal of a split vocabulary": 'root ::= "' + "a" * 100_000 + '" "b"',
    "each other": "root ::= a\na ::= b\nb ::= a",
    "sparse class": "root ::= [" + "".join(chr(n) for n in range(256, 55_000, 2)) + "]+",
    "millions by number": 'root ::= "a"{1000000}',
    "states": "root ::= (" + " | ".join(f'(.* "a" .{{{n}}})' for n in range(9, 15)) + ') "z"',
}


@pytest.fixture(scope="module")
def verdicts(models: Models) -> dict[str, str]:
    """What became of each hostile grammar, tried in a process that may die or hang of it."""
    return hostile.verdicts(
        models(), {name: Grammar("gbnf", source) for name, source in HOSTILE.items()}
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_is_refused_or_works_and_the_process_lives(
    verdicts: dict[str, str], name: str
) -> None:
    assert verdicts[name] in ("works", "refused")


@pytest.mark.parametrize(
    "name",
    ["unbalanced quotes", "unbalanced brackets", "bounds the wrong way", "deeply nested", "empty"],
)
def test_what_is_no_grammar_is_refused(backend: LlamaBackend, name: str) -> None:
    with pytest.raises(GrammarRejected):
        backend.set_grammar(HOSTILE[name])
