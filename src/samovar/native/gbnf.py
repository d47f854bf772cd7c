"""GBNF, llama.cpp's notation for grammars, as Lark text that llguidance compiles.

llguidance has a converter of its own. It recurses without looking, and reads escapes and comments
in its own way: what it is given is checked, and written in words that it reads rightly. What it
cannot read (`<token>` literals, `("a"*)*`) is refused.
"""

from __future__ import annotations

import re

from llguidance.gbnf_to_lark import gbnf_to_lark

from samovar.errors import GrammarRejected

MAX_NESTING = 128
"""Open brackets at once. The converter recurses, and a stack that is used up cannot be caught."""
MAX_DEPTH = 1000
"""Rules, and the brackets nested in each, all added up. They may nest in each other, and llguidance
recurses without looking: 2,200 fit a stack of 8 MiB, 4,400 do not."""
MAX_WORK = 2**25
"""Rules times bytes: the converter may go over the whole text once per rule."""

_TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"?|\[(?:\\.|[^\]\\])*\]?|#[^\r\n]*|::=|[\w-]+|[()]', re.DOTALL
)
"""A literal, a character class, a comment, what follows the name of a rule, a name, a bracket."""
_START = "the-start-of-this-grammar"  # for `start`, which is what the converter names the root
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|.)", re.DOTALL)


def to_lark(gbnf: str) -> str:
    """The same grammar as Lark text. Raises GrammarRejected for what is no GBNF, or too much."""
    if not gbnf.strip():
        raise GrammarRejected("the grammar is empty; give GBNF text with a rule named root")
    _check(gbnf)
    try:
        lark: str = gbnf_to_lark(_TOKEN.sub(_readable, gbnf))
        lark.encode()
    except GrammarRejected:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0].replace(_START, "start")
        raise GrammarRejected(
            f"the grammar is not valid GBNF: {reason[:200]}; correct it"
        ) from error
    return lark


def check_depth(rules: int, nested: int, deepest: int) -> None:
    """Refuse what would use up the stack of whoever reads it."""
    if deepest > MAX_NESTING:
        raise GrammarRejected(
            f"the grammar nests brackets {deepest} deep, more than {MAX_NESTING}; name inner rules"
        )
    if rules + nested > MAX_DEPTH:
        raise GrammarRejected(
            f"the grammar has {rules} rules with {nested} brackets nested in them, together more"
            f" than {MAX_DEPTH}; use fewer rules"
        )


def _check(gbnf: str) -> None:
    rules, nested, deepest = _shape(gbnf)
    check_depth(rules, nested, deepest)
    if rules * len(gbnf) > MAX_WORK:
        raise GrammarRejected(
            f"the grammar has {rules} rules in {len(gbnf)} characters, which is too much to read"
            " safely; use fewer rules"
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
        raise GrammarRejected(
            f"the grammar escapes U+{code:04X}, which is no character; correct it"
        )
    return f"\\x{code:02X}" if code < 0x80 else chr(code)
