"""Grammars that generation must follow, compiled and matched by llguidance.

llama.cpp has a grammar sampler of its own. It is not used: it needs 9 to 127 ms for a mask where
llguidance needs under 0.1, hangs on `"a"{5,2}`, overflows the stack on deep nesting, and aborts
the process when it is shown a token that it does not allow. llguidance answers hostile input
with an error text, within the limits below. What its GBNF converter cannot read (`<token>`
literals, `("a"*)*`) is refused.

A token matches by its bytes, markup like `<think>` included; control tokens never match. No
spelling is forced: a token is allowed where its bytes are, whether or not the tokenizer would
have put it there.
"""

from __future__ import annotations

import re
from collections import OrderedDict

import llguidance
import numpy as np
from llguidance.gbnf_to_lark import gbnf_to_lark
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from samovar.errors import GrammarRejected, InvalidToken, OperationUnsupported
from samovar.native.vocabulary import Vocabulary

MAX_GRAMMAR_BYTES = 256 * 1024
"""Larger grammars take seconds to convert; real ones are a few kilobytes."""
MAX_NESTING = 128
"""Open brackets at once. The converter recurses, and a stack that is used up cannot be caught."""
MAX_DEPTH = 1000
"""Rules, and the brackets nested in each, all added up. They may nest in each other, and llguidance
recurses without looking: 2,200 fit a stack of 8 MiB, 4,400 do not."""
MAX_WORK = 2**25
"""Rules times bytes: the converter may go over the whole text once per rule."""
_CACHED = 16  # compiled grammars kept per model; a client that sends a grammar sends it again
# Its time grows with the square of the items in a row of the parser: with the 2,000 it allows by
# itself, an ambiguous grammar takes over a second per token, with these 0.03 s.
_LIMITS = llguidance.LLParserLimits(max_items_in_row=500, verbose_errors=False)
_OPTIONS = '%llguidance {"no_forcing": true}'
_REASON = 200  # characters of an error text that are passed on


class Matcher:
    """How far one sequence has come in a grammar.

    Everything raises GrammarRejected once the grammar turns out to lead nowhere, or to be too much
    work for llguidance's limits. It would otherwise pass for one that has ended.
    """

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self._size = vocabulary.size
        self._ends = vocabulary.eog_tokens
        self._bits = allocate_token_bitmask(1, vocabulary.size)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next. A few microseconds, whatever the vocabulary."""
        if self._matcher.is_stopped():  # validate_tokens then refuses the ends as well
            self._require_sound()
            return token in self._ends
        if not 0 <= token < self._size:
            return False
        if self._matcher.validate_tokens([token]) == 1:
            return True
        self._require_sound()
        return False

    def mask(self) -> np.ndarray:
        """Which tokens may come next: bool, one per token of the vocabulary."""
        fill_next_token_bitmask(self._matcher, self._bits, 0)
        self._require_sound()  # in error, the mask would be that of a grammar that has ended
        octets = self._bits.view(np.uint8).reshape(-1)
        return np.unpackbits(octets, count=self._size, bitorder="little").view(np.bool_)

    def consume(self, token: int) -> None:
        """Go on by one token. Raises InvalidToken, and stays where it was, if it is not allowed.

        Asking first matters: a refused token would leave llguidance in an error it never leaves.
        """
        if not self.allows(token):
            raise InvalidToken(f"the grammar does not allow token {token} here")
        if not self._matcher.consume_token(token):
            self._require_sound()
            raise InvalidToken(f"the grammar does not allow token {token} here")

    def _require_sound(self) -> None:
        if self._matcher.is_error():
            reason = _first_line(self._matcher.get_error() or "it matches no text at all")
            raise GrammarRejected(
                f"the grammar cannot be followed further: {reason}; simplify it, and give long"
                " lists of literals a rule of their own"
            )


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
        grammar = llguidance.LLMatcher.grammar_from_lark(_to_lark(gbnf))
        matcher = llguidance.LLMatcher(self._tokens(), grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            reason = _first_line(matcher.get_error())
            raise GrammarRejected(f"the grammar does not compile: {reason}")
        Matcher(matcher.deep_copy(), self._vocabulary).mask()  # refuses what leads nowhere
        return matcher

    def _tokens(self) -> llguidance.LLTokenizer:
        """The vocabulary as llguidance wants it: made once, up to 2 s by its size."""
        if self._tokenizer is None:
            ends = list(self._vocabulary.eog_tokens)
            if not ends:
                raise OperationUnsupported(
                    "this vocabulary has no end-of-generation token, so a grammar could never end"
                )
            pieces = llguidance.TokenizerWrapper(_Pieces(self._vocabulary))
            self._tokenizer = llguidance.LLTokenizer(pieces, eos_token=ends)
        return self._tokenizer


class _Pieces:
    """A vocabulary in the shape that llguidance.TokenizerWrapper asks for."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.eos_token_id = vocabulary.eog_tokens[0]
        self.bos_token_id = vocabulary.bos
        # Without a text of their own: control and unknown tokens. 0xFF never begins a text.
        texts = ((token, vocabulary.piece(token)) for token in range(vocabulary.size))
        self.tokens = [
            piece or b"\xff" + vocabulary.piece(token, special=True) for token, piece in texts
        ]
        self.special_token_ids = [
            token for token, piece in enumerate(self.tokens) if piece.startswith(b"\xff<")
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._vocabulary.tokenize(text, add_special=False)


# ---- GBNF ---------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"?|\[(?:\\.|[^\]\\])*\]?|#[^\r\n]*|::=|[\w-]+|[()]', re.DOTALL
)
"""A literal, a character class, a comment, what follows the name of a rule, a name, a bracket."""
_START = "the-start-of-this-grammar"  # for `start`, which is what the converter names the root
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|.)", re.DOTALL)


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
    rules, nested, deepest = _shape(gbnf)
    if deepest > MAX_NESTING:
        raise GrammarRejected(
            f"the grammar nests brackets {deepest} deep, more than {MAX_NESTING}; name inner rules"
        )
    if rules + nested > MAX_DEPTH or rules * size > MAX_WORK:
        raise GrammarRejected(
            f"the grammar has {rules} rules with {nested} brackets nested in them in {size} bytes,"
            " which is too much to compile safely; use fewer rules"
        )


def _shape(gbnf: str) -> tuple[int, int, int]:
    """How many rules; the deepest nesting of round brackets in each, added up; and the deepest."""
    rules = nested = deepest = depth = own = 0
    for token in _TOKEN.finditer(gbnf):
        match token[0]:
            case "(":
                depth += 1
                own = max(own, depth)
            case ")":
                depth = max(0, depth - 1)
            case "::=":
                rules, nested, deepest = rules + 1, nested + own, max(deepest, own)
                own = depth = 0
    return rules, nested + own, max(deepest, own)


def _to_lark(gbnf: str) -> str:
    try:
        lark: str = gbnf_to_lark(_TOKEN.sub(_readable, gbnf))
        lark.encode()
    except GrammarRejected:
        raise
    except Exception as error:
        reason = _first_line(str(error).replace(_START, "start"))
        raise GrammarRejected(f"the grammar is not valid GBNF: {reason}") from error
    return _OPTIONS + lark.removeprefix("%llguidance {}")


def _readable(token: re.Match[str]) -> str:
    """The same, in words that the converter reads rightly."""
    text = token[0]
    if text.startswith("#"):
        return ""
    if text.startswith(('"', "[")):
        return _ESCAPE.sub(_character, text)
    return _START if text == "start" else text


def _character(escape: re.Match[str]) -> str:
    digits = escape[1] or escape[2]
    if digits is None:
        return escape[0]
    code = int(digits, 16)
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise GrammarRejected(f"the grammar escapes U+{code:04X}, which is no character")
    return f"\\x{code:02X}" if code < 0x80 else chr(code)


def _first_line(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= _REASON else line[:_REASON] + "..."
