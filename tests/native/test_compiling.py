"""Compiling grammars: ahead, from any thread, once, within a deadline, and kept within bounds."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from samovar.errors import GrammarRejected, Overloaded
from samovar.native import grammar as module
from samovar.native.grammar import Grammars
from samovar.native.matcher import Matcher
from samovar.native.model import Model, ModelOptions
from samovar.native.vocabulary import Vocabulary
from samovar.types import Grammar
from tests.conftest import ROOT, Models, scaled, shared_vocabularies
from tests.native.walks import walks

YES = Grammar("choice", '["yes", "no"]')


@pytest.fixture(scope="module")
def vocabulary(models: Models) -> Iterator[Vocabulary]:
    model = Model(models.vocabulary(), ModelOptions(vocab_only=True))
    yield model.vocabulary
    model.close()


@pytest.fixture
def grammars(vocabulary: Vocabulary) -> Grammars:
    """With nothing compiled yet."""
    return Grammars(vocabulary)


def _work(number: int) -> Grammar:
    """A grammar that takes some hundredths of a second."""
    patterns = {f"^{number}x{place:02}": {} for place in range(40)}
    return Grammar("json_schema", json.dumps({"patternProperties": patterns}))


def _threads() -> int:
    return sum(thread.name.startswith("grammar") for thread in threading.enumerate())


# ---- from any thread ----------------------------------------------------------------------------


def test_what_was_compiled_ahead_is_there(grammars: Grammars) -> None:
    ahead = ThreadPoolExecutor(1).submit(grammars.compile, YES).result(60)
    assert grammars.compile(YES, timeout_seconds=0) is ahead
    assert grammars.compile(Grammar(YES.kind, f"{YES.source}"), timeout_seconds=0) is ahead


def test_many_threads_that_want_the_same_get_the_same(grammars: Grammars) -> None:
    with ThreadPoolExecutor(16) as callers:
        found = list(callers.map(lambda _: grammars.compile(_work(0)), range(64)))
    assert len({id(compiled) for compiled in found}) == 1


def test_many_threads_that_want_different_ones_get_theirs(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    def said(number: int) -> list[bytes | None]:
        compiled = grammars.compile(Grammar("choice", json.dumps([f"text {number % 20}"])))
        return list(walks((compiled.start() for _ in range(2)), vocabulary, number))

    with ThreadPoolExecutor(8) as callers:
        for number, texts in enumerate(callers.map(said, range(scaled(60, 2_000)))):
            assert texts == [b"text %d" % (number % 20)] * 2


def test_threads_that_follow_one_grammar_do_not_disturb_each_other(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    compiled = grammars.compile(Grammar("json_object"))

    def said(seed: int) -> list[bytes | None]:
        return list(walks((compiled.start() for _ in range(3)), vocabulary, seed))

    with ThreadPoolExecutor(6) as callers:
        together = list(callers.map(said, range(scaled(12, 300))))
    assert together == [said(seed) for seed in range(scaled(12, 300))]


def test_few_threads_compile_however_many_wait(grammars: Grammars) -> None:
    before = _threads()
    for number in range(20):
        with pytest.raises(GrammarRejected):
            grammars.compile(_work(number), timeout_seconds=0)
    assert _threads() - before <= 2
    assert grammars.compile(_work(19)).warnings == ()


def test_too_many_that_wait_are_sent_away_and_served_later(grammars: Grammars) -> None:
    grammars.compile(YES)
    waiting: list[Grammar] = []
    with pytest.raises(Overloaded, match="try again"):
        _crowd(grammars, waiting)
    assert len(waiting) > 30
    for grammar in waiting:
        assert grammars.compile(grammar).warnings == ()
    assert grammars.compile(_work(1000)).warnings == ()


def _crowd(grammars: Grammars, waiting: list[Grammar]) -> None:
    for number in range(300):
        try:
            grammars.compile(_work(number), timeout_seconds=0)
        except GrammarRejected:  # nobody waits for it
            waiting.append(_work(number))


CLOSED = """
import sys, threading
from samovar.errors import Released
from samovar.native.grammar import Grammars
from samovar.native.model import Model, ModelOptions

for wait in (0.0, 0.001, 0.005, 0.02):
    model = Model(sys.argv[1], ModelOptions(vocab_only=True))
    grammars, begun = Grammars(model.vocabulary), threading.Event()

    def compile_one():
        begun.set()
        try:
            grammars.compile('root ::= "a"')
        except Released:
            pass

    compiling = threading.Thread(target=compile_one)
    compiling.start()
    begun.wait()
    threading.Event().wait(wait)
    model.close()
    compiling.join()
print("alive")
"""


def test_a_model_that_is_closed_meanwhile_is_not_freed_under_a_compiling_thread(
    models: Models,
) -> None:
    path = next(iter(shared_vocabularies()), models.vocabulary())
    tried = subprocess.run(
        [sys.executable, "-c", CLOSED, str(path)],
        capture_output=True,
        cwd=ROOT,
        timeout=250,
        check=False,
    )
    assert tried.stdout.strip() == b"alive", tried.stderr[-600:]


# ---- deadlines ----------------------------------------------------------------------------------


def test_who_does_not_want_to_wait_is_told_so_and_the_work_is_not_lost(grammars: Grammars) -> None:
    grammars.compile(YES)
    with pytest.raises(GrammarRejected, match=r"more than 0 s.*simplify") as refusal:
        grammars.compile(_work(5), timeout_seconds=0)
    assert "\n" not in str(refusal.value)
    whole = grammars.compile(_work(5))
    assert grammars.compile(_work(5), timeout_seconds=0) is whole


# ---- what is kept -------------------------------------------------------------------------------


def test_a_refusal_is_kept_and_given_anew(grammars: Grammars) -> None:
    refusals = []
    for _ in range(3):
        with pytest.raises(GrammarRejected) as refusal:
            grammars.compile(Grammar("json_schema", '{"type": 5}'))
        refusals.append(refusal.value)
    assert len(set(map(str, refusals))) == 1
    assert len(set(map(id, refusals))) == 3


def test_the_last_few_are_kept_and_the_others_let_go(grammars: Grammars) -> None:
    first = weakref.ref(grammars.compile(Grammar("regex", "first")))
    kept = grammars.compile(YES)
    for number in range(100):
        grammars.compile(Grammar("regex", f"a{number}"))
        assert grammars.compile(YES) is kept
    gc.collect()
    assert first() is None


def test_large_ones_push_each_other_out_sooner(grammars: Grammars) -> None:
    def large(number: int) -> Grammar:
        return Grammar("regex", f"{number}" + "x" * 200_000)

    first = weakref.ref(grammars.compile(Grammar("choice", json.dumps(["x" * 900_000]))))
    for number in range(8):
        grammars.compile(Grammar("choice", json.dumps([f"{number}" + "y" * 900_000])))
    assert grammars.compile(large(1)) is grammars.compile(large(1))
    gc.collect()
    assert first() is None


def test_nothing_is_left_of_it_when_it_goes(vocabulary: Vocabulary) -> None:
    before = _threads()
    grammars = Grammars(vocabulary)
    compiled = weakref.ref(grammars.compile(YES))
    matcher = grammars.start(YES)
    del grammars
    gc.collect()
    assert matcher.allows(next(t for t in range(512) if vocabulary.piece(t) == b"y"))
    del matcher
    gc.collect()
    assert compiled() is None
    for thread in threading.enumerate():
        if thread.name.startswith("grammar"):
            thread.join(10)
    assert _threads() <= before


# ---- states that run out ------------------------------------------------------------------------


def _use_up(matcher: Matcher, tokens: list[int]) -> int:
    for step in range(3_000):
        try:
            matcher.mask()
            matcher.consume(tokens[step * step % 7 % len(tokens)])
        except GrammarRejected:
            return step
    raise AssertionError("it goes on for ever")


def test_a_grammar_whose_states_have_run_out_is_compiled_anew(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_LEXER_STATES", 600)
    grammars = Grammars(vocabulary)
    source = Grammar("regex", "(.*a.{16}|.*b.{18})c")
    tokens = [t for t in range(vocabulary.size) if vocabulary.piece(t) in (b"a", b"b", b"d", b"e")]
    used = grammars.compile(source)
    with pytest.raises(GrammarRejected):
        _use_up_twice(used.start(), used.start(), tokens)
    assert used.is_used_up
    fresh = grammars.compile(source)
    assert fresh is not used
    assert _use_up(fresh.start(), tokens) > 10


def _use_up_twice(first: Matcher, second: Matcher, tokens: list[int]) -> None:
    """The second cannot go on because the first has used up the states of both."""
    _use_up(first, tokens)
    _use_up(second, tokens)
    first.mask()
