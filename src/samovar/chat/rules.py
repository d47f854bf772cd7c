"""Lark text for llguidance: rules, and how texts with control tokens in them are written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from samovar.chat.messages import Json

ANY_TEXT = r"/(.|\n)*/"
_SOME_TEXT = r"/(.|\n)+/"


class Rules:
    """The rules of one grammar. `control_tokens`: texts that are a token and no text, with its id.

    A token is named by its id: not every text of one is a name in Lark.
    """

    def __init__(self, control_tokens: Mapping[str, int]) -> None:
        self._tokens = control_tokens
        self._rules: list[str] = []
        longest_first = sorted(filter(None, control_tokens), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def add(self, name: str, body: str) -> str:
        """A rule; gives its name."""
        self._rules.append(f"{name}: {body}")
        return name

    def has(self, name: str) -> bool:
        """Whether there is a rule of that name."""
        return any(rule.startswith(f"{name}:") for rule in self._rules)

    def text(self) -> str:
        """All rules."""
        return "\n".join(self._rules) + "\n"

    def literal(self, text: str) -> str:
        """A text in which control tokens may be named.

        White space before it is a lexeme of its own: the lexer takes the longest one and does not
        go back, so two texts that begin with the same white space would hide each other.
        """
        core = text.lstrip()
        blanks = quoted(text[: len(text) - len(core)])
        return " ".join(filter(None, [blanks, self._named(core)]))

    def _named(self, text: str) -> str:
        parts, end = [], 0
        for match in self._pattern.finditer(text):
            parts += [quoted(text[end : match.start()]), f"<[{self._tokens[match[0]]}]>"]
            end = match.end()
        return " ".join(filter(None, [*parts, quoted(text[end:])]))

    def leading_token(self, text: str) -> str:
        """The control token that a text begins with, or nothing."""
        match = self._pattern.match(text)
        return "" if match is None else match[0]

    def tokens_of(self, texts: Iterable[str]) -> tuple[int, ...]:
        """The ids of the control tokens in some texts."""
        found = (match[0] for text in texts for match in self._pattern.finditer(text))
        return tuple(sorted({self._tokens[text] for text in found}))

    def free(self, tokens: Iterable[int] = ()) -> str:
        """Any text; these control tokens may stand in it."""
        named = ",".join(map(str, tokens))
        return f"({_SOME_TEXT} | <[{named}]>)*" if named else ANY_TEXT

    def until(self, name: str, end: str, tokens: Iterable[int] = ()) -> str:
        """A rule of any text up to and with the first `end`; gives its name."""
        if self.leading_token(end):
            return self.add(name, f"{self.free(tokens)} {self.literal(end)}")
        return self.add(f"{name}[suffix={quoted(end)}]", ANY_TEXT).partition("[")[0]

    def without(self, end: str) -> str:
        """Any text in which `end`, a text or one control token, does not come."""
        if end in self._tokens:
            return f"<[^{self._tokens[end]}]>*"
        self.add("WITH", f"{ANY_TEXT} {quoted(end)} {ANY_TEXT}")
        return self.add("TEXT", f"{ANY_TEXT} & ~WITH")


def quoted(text: str) -> str:
    """A text as a literal; nothing for nothing."""
    # DEL is the one character that JSON leaves alone and Lark does not.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") if text else ""


def json_value(schema: Json) -> str:
    """JSON by a schema."""
    return f"%json {json.dumps(schema)}"
