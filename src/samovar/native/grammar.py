"""Grammars that generation must follow, compiled and matched by llguidance.

llama.cpp has a grammar sampler of its own. It is not used: it needs 9 to 127 ms for a mask where
llguidance needs under 0.1, hangs on `"a"{5,2}`, overflows the stack on deep nesting, and aborts
the process when it is shown a token that it does not allow. llguidance answers hostile input
with an error text. What its GBNF converter cannot read (`<token>` literals, `("a"*)*`) is refused.
"""

from __future__ import annotations

from collections import OrderedDict

import llguidance
import numpy as np
from llguidance.llamacpp import lltokenizer_from_vocab
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from samovar.errors import GrammarRejected, InvalidToken, OperationUnsupported
from samovar.native.vocabulary import Vocabulary

MAX_GRAMMAR_BYTES = 256 * 1024
"""Larger grammars take seconds to convert; real ones are a few kilobytes."""
MAX_NESTING = 128
"""Open brackets at once. The converter recurses, and a stack that is used up cannot be caught."""
_CACHED = 16  # compiled grammars kept per model; a client that sends a grammar sends it again


class Matcher:
    """How far one sequence has come in a grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self._size = vocabulary.size
        self._ends = vocabulary.eog_tokens
        self._bits = allocate_token_bitmask(1, vocabulary.size)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next. A few microseconds, whatever the vocabulary."""
        if self._matcher.is_stopped():  # validate_tokens then refuses the ends as well
            return token in self._ends
        return bool(self._matcher.validate_tokens([token]) == 1)

    def mask(self) -> np.ndarray:
        """Which tokens may come next: bool, one per token of the vocabulary."""
        fill_next_token_bitmask(self._matcher, self._bits, 0)
        octets = self._bits.view(np.uint8).reshape(-1)
        return np.unpackbits(octets, count=self._size, bitorder="little").view(np.bool_)

    def consume(self, token: int) -> None:
        """Go on by one token. Raises InvalidToken, and stays where it was, if it is not allowed.

        Asking first matters: a refused token would leave llguidance in an error it never leaves.
        """
        if not self.allows(token) or not self._matcher.consume_token(token):
            raise InvalidToken(f"the grammar does not allow token {token} here")


class Grammars:
    """Compiles grammars for one vocabulary and keeps the last few."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()

    def start(self, gbnf: str) -> Matcher:
        """A matcher at the start of the grammar. Raises GrammarRejected for what cannot be used."""
        compiled = self._compiled.get(gbnf)
        if compiled is None:
            compiled = self._compiled[gbnf] = self._compile(gbnf)
            if len(self._compiled) > _CACHED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(gbnf)
        return Matcher(compiled.deep_copy(), self._vocabulary)

    def _compile(self, gbnf: str) -> llguidance.LLMatcher:
        _check(gbnf)
        try:
            grammar = llguidance.grammar_from("gbnf", gbnf)
        except (ValueError, RecursionError, IndexError, KeyError, AssertionError) as error:
            raise GrammarRejected(f"the grammar is not valid GBNF: {error}") from error
        matcher = llguidance.LLMatcher(self._tokens(), grammar, log_level=0)
        if matcher.is_error():
            raise GrammarRejected(f"the grammar does not compile: {matcher.get_error()}")
        return matcher

    def _tokens(self) -> llguidance.LLTokenizer:
        """The vocabulary as llguidance wants it: made once, 0.3 to 3 s by its size."""
        if self._tokenizer is None:
            ends = list(self._vocabulary.eog_tokens)
            if not ends:
                raise OperationUnsupported(
                    "this vocabulary has no end-of-generation token, so a grammar could never end"
                )
            self._tokenizer = lltokenizer_from_vocab(self._vocabulary.pointer, eos_token=ends)
        return self._tokenizer


def _check(gbnf: str) -> None:
    """Refuse what would cost too much before anything recursive sees it."""
    size = len(gbnf.encode("utf-8", "surrogatepass"))
    if not gbnf.strip():
        raise GrammarRejected("the grammar is empty; give GBNF text with a rule named root")
    if size > MAX_GRAMMAR_BYTES:
        raise GrammarRejected(
            f"the grammar has {size} bytes, more than {MAX_GRAMMAR_BYTES}; make it smaller"
        )
    if "\x00" in gbnf:
        raise GrammarRejected("the grammar holds a NUL character; remove it")
    depth = _nesting(gbnf)
    if depth > MAX_NESTING:
        raise GrammarRejected(
            f"the grammar nests brackets {depth} deep, more than {MAX_NESTING}; name inner rules"
        )


def _nesting(gbnf: str) -> int:
    """The deepest nesting of round brackets outside of literals, character classes, comments."""
    deepest = depth = 0
    closer = ""
    escaped = False
    for char in gbnf:
        if closer:
            if escaped or char == "\\":
                escaped = not escaped and closer != "\n"
            elif char == closer:
                closer = ""
        elif char in '"[#':
            closer = {'"': '"', "[": "]", "#": "\n"}[char]
        elif char == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif char == ")":
            depth -= 1
    return deepest
