"""Grammars: what they force, what they refuse, and that nothing in them takes the process down."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from samovar.errors import GrammarRejected, InvalidToken
from samovar.native.context import ContextOptions
from samovar.native.grammar import Grammars
from samovar.native.interface import Row, Sampled, Stepped
from samovar.native.llama import LlamaBackend
from samovar.types import SamplingParams
from tests.conftest import ROOT, Models

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
}

TRY = """
import sys
from samovar.errors import GrammarRejected
from samovar.native.context import ContextOptions
from samovar.native.llama import LlamaBackend
grammar = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
with LlamaBackend.open(sys.argv[1], context=ContextOptions(context_length=256, threads=1),
                       proves_state=False) as backend:
    backend.prefill(backend.tokenize("Hi"))
    try:
        backend.set_grammar(grammar)
        for _ in range(5):
            if backend.decode_one().is_eog:
                break
        print("works")
    except GrammarRejected as error:
        assert "\\n" not in str(error)[:1]
        print("refused")
    backend.clear_sampler()
    backend.seq_rm(0)
    backend.prefill(backend.tokenize("Hi"))
    backend.decode_one()
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_is_refused_or_works_and_the_process_lives(
    models: Models, name: str
) -> None:
    grammar = HOSTILE[name].encode("utf-8", "surrogatepass")
    done = subprocess.run(
        [sys.executable, "-c", TRY, str(models())],
        input=grammar,
        capture_output=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr.decode()[-600:]
    assert done.stdout in (b"works\n", b"refused\n")


@pytest.mark.parametrize(
    "name",
    ["unbalanced quotes", "unbalanced brackets", "bounds the wrong way", "deeply nested", "empty"],
)
def test_what_is_no_grammar_is_refused(backend: LlamaBackend, name: str) -> None:
    with pytest.raises(GrammarRejected):
        backend.set_grammar(HOSTILE[name])
