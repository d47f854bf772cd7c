"""Grammars that generation must follow, compiled and matched by llguidance.

llama.cpp has a grammar sampler of its own. It is not used: it needs 9 to 127 ms for a mask where
llguidance needs under 0.1, hangs on `"a"{5,2}`, overflows the stack on deep nesting, and aborts
the process when it is shown a token that it does not allow. llguidance answers hostile input
with an error text, within the limits below.

Compiling takes milliseconds as a rule, and seconds at worst. It happens on threads of its own, so
that whoever waits can stop waiting, and any thread may have it done ahead:

    compile() on any thread ──> Compiled, kept ──start()──> a Matcher per sequence, in microseconds
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import llguidance

from samovar.errors import GrammarRejected, Overloaded
from samovar.native.lark import Lark, to_lark
from samovar.native.matcher import Matcher
from samovar.native.pieces import Pieces
from samovar.native.refusal import refusal, warning
from samovar.native.vocabulary import Vocabulary
from samovar.types import Grammar

COMPILE_SECONDS = 20.0
"""How long a caller waits. What llguidance's limits let through takes at most some seconds."""
STACK_BYTES = 64 * 2**20
"""Of a compiling thread; only what is used is taken from memory. The usual stack of a thread, 2 to
8 MiB, would be overrun by 500 definitions that refer to each other."""
_THREADS = 2
_MAX_WAITING = 32  # grammars that wait to be compiled; a client is told to come back
_KEPT = 16  # compiled grammars; a client that sends a grammar sends it again
_KEPT_CHARACTERS = 4 * 2**20  # of their sources together: what they compile to grows with it
# Of 0.2 kB, for all sequences of a grammar together. A text of at most 20,000 characters needs
# 23 per token of a vocabulary of 128,000.
_MAX_LEXER_STATES = 500_000
# Every spelling is allowed, see matcher.py. At the end, where it moves no line of a client's.
_OPTIONS = '\n%llguidance {"no_forcing": true}\n'


class Compiled:
    """A grammar that sequences can follow. Any thread may use it."""

    def __init__(
        self,
        prototype: llguidance.LLMatcher,
        pieces: Pieces,
        warnings: tuple[str, ...] = (),
        *,
        names_tokens: bool = True,
    ) -> None:
        self.warnings = warnings
        """What in it is not followed to the letter, in one line each."""
        self.is_used_up = False
        """Its states have all been used: no sequence can go on in it, and none should start."""
        self._prototype = prototype
        self._pieces = pieces
        self._names_tokens = names_tokens
        self._lock = threading.Lock()  # llguidance refuses to be used by two threads at once

    def start(self) -> Matcher:
        """A matcher at the start of the grammar."""
        with self._lock:
            copy = self._prototype.deep_copy()
        return Matcher(copy, self._pieces, self._use_up, names_tokens=self._names_tokens)

    def _use_up(self) -> None:
        self.is_used_up = True

    def require_exact(self) -> None:
        """Raise GrammarRejected, which names it, if something in it is not followed."""
        if self.warnings:
            raise GrammarRejected(
                f"the grammar cannot be followed to the letter: {'; '.join(self.warnings)}"
            )


class Grammars:
    """Compiles grammars for one vocabulary and keeps the last few. Any thread may use it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokenizer: tuple[Pieces, llguidance.LLTokenizer] | None = None
        self._tokenizer_lock = threading.Lock()
        self._lock = threading.Lock()
        self._jobs: OrderedDict[Grammar, Future[Compiled | GrammarRejected]] = OrderedDict()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="grammar")

    def start(self, grammar: str | Grammar) -> Matcher:
        """A matcher at the start of a grammar. Raises what `compile` raises."""
        return self.compile(grammar).start()

    def compile(self, grammar: str | Grammar, timeout_seconds: float = COMPILE_SECONDS) -> Compiled:
        """Have a grammar (plain text: GBNF) compiled, unless it is already there.

        Raises GrammarRejected for what cannot be used or takes longer than `timeout_seconds`,
        Overloaded if too many are waiting, and OperationUnsupported if nothing could ever end.
        The first call for a vocabulary takes up to 2 s more.
        """
        if isinstance(grammar, str):
            grammar = Grammar("gbnf", grammar)
        self._require_tokenizer()
        job = self._job(grammar)
        try:
            outcome = job.result(timeout_seconds)
        except TimeoutError:
            raise GrammarRejected(
                f"the grammar took more than {timeout_seconds:g} s to compile, which is too much"
                " work; simplify it"
            ) from None
        if isinstance(outcome, GrammarRejected):
            raise GrammarRejected(str(outcome))  # the one that is kept would grow a traceback
        return outcome

    def _job(self, grammar: Grammar) -> Future[Compiled | GrammarRejected]:
        with self._lock:
            job = self._jobs.get(grammar)
            if job is None or _is_useless(job):
                waiting = sum(not kept.done() for kept in self._jobs.values())
                if waiting >= _MAX_WAITING:
                    raise Overloaded("too many grammars are being compiled; try again")
                job = self._jobs[grammar] = self._submit(grammar)
            self._jobs.move_to_end(grammar)
            self._forget_old()
            return job

    def _submit(self, grammar: Grammar) -> Future[Compiled | GrammarRejected]:
        usual = threading.stack_size(STACK_BYTES)  # for the thread that this may start
        try:
            return self._pool.submit(self._outcome, grammar)
        finally:
            threading.stack_size(usual)

    def _forget_old(self) -> None:
        size = sum(len(grammar.source) for grammar in self._jobs)
        done = [grammar for grammar, job in self._jobs.items() if job.done()]
        for grammar in done:
            if len(self._jobs) <= _KEPT and size <= _KEPT_CHARACTERS:
                return
            size -= len(grammar.source)
            del self._jobs[grammar]

    def _outcome(self, grammar: Grammar) -> Compiled | GrammarRejected:
        """On a compiling thread. A refusal is a result: it is kept, and given again."""
        try:
            return self._compile(grammar)
        except GrammarRejected as error:
            return error

    def _compile(self, grammar: Grammar) -> Compiled:
        lark, (pieces, _) = to_lark(grammar), self._require_tokenizer()
        matcher, warnings = self._matcher(lark.strict, lark), lark.notes
        if matcher.is_error() and lark.lenient is not None:
            matcher = self._matcher(lark.lenient, lark)
        if matcher.is_error():
            raise refusal(grammar.kind, matcher.get_error())
        warnings += tuple(map(warning, dict.fromkeys(matcher.get_grammar_warnings())))
        Matcher(matcher.deep_copy(), pieces).mask()  # refuses what leads nowhere
        return Compiled(matcher, pieces, warnings, names_tokens=lark.names_tokens)

    def _matcher(self, text: str, lark: Lark) -> llguidance.LLMatcher:
        limits = llguidance.LLParserLimits(
            max_items_in_row=lark.max_row, max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False
        )
        grammar = llguidance.LLMatcher.grammar_from_lark(text + _OPTIONS)
        _, tokenizer = self._require_tokenizer()
        return llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)

    def _require_tokenizer(self) -> tuple[Pieces, llguidance.LLTokenizer]:
        with self._tokenizer_lock:
            if self._tokenizer is None:
                with self._vocabulary.held():
                    pieces = Pieces(self._vocabulary)
                    self._tokenizer = pieces, pieces.tokenizer()
            return self._tokenizer


def _is_useless(job: Future[Compiled | GrammarRejected]) -> bool:
    """Whether what it gave cannot be used any more, or was a fault of ours."""
    if not job.done():
        return False
    if job.cancelled() or job.exception() is not None:
        return True
    outcome = job.result()
    return isinstance(outcome, Compiled) and outcome.is_used_up
