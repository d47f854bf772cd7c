"""A turn of a model: tokens and the text that they made sure in, deltas by kind out.

    hear(token, text) ──> parser ──> parts ──take()──> TextDelta, ReasoningDelta, ToolCallDelta

Every id is in exactly one delta, in order, however long its text is held back: who takes a request
up again behind the ids that came out is behind all that they told, and behind nothing else. What
was told after some ids depends on those alone, not on how they came in steps.

Stop strings count in the answer's content only, as hosted models have it: reasoning and calls may
hold them. Where one is complete, nothing more is told, and `stop` says which it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass

import msgspec

from samovar.chat.notations import BARE_QUOTING
from samovar.chat.parser import Call, Content, Parser, Piece, Reasoning
from samovar.chat.shapes import Family, Slot
from samovar.chat.stopping import StopStrings
from samovar.types import (
    Event,
    ReasoningDelta,
    TextDelta,
    TokenLogprobs,
    Tool,
    ToolCallDelta,
)

_CLOSING = 8  # tokens: more than any marker that closes reasoning

_Kind = type[Content] | type[Reasoning] | type[Call]


@dataclass(frozen=True, slots=True)
class Budget:
    """How much reasoning there may be, and what then ends it."""

    tokens: int
    closing: tuple[int, ...]


class _Part(msgspec.Struct):
    """What becomes one delta."""

    kind: _Kind
    text: str = ""
    name: str = ""
    call: int = 0
    tokens: list[int] = msgspec.field(default_factory=list)
    logprobs: list[TokenLogprobs] = msgspec.field(default_factory=list)


class Turn:
    """One choice of a request. Without a parser all text is the answer's."""

    def __init__(
        self,
        request_id: str,
        choice: int,
        parser: Parser | None = None,
        budget: Budget | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        self._request_id = request_id
        self._choice = choice
        self._parser = parser
        self._budget = budget
        self._num_reasoning = 0
        self._parts: list[_Part] = []
        self._logprobs: list[TokenLogprobs] = []
        """Of tokens whose text is held back."""
        self._stops = StopStrings(stop)
        self._held: list[TokenLogprobs] = []
        """Of tokens of content that is held back because a stop string may be beginning."""
        self.stop: str | None = None
        """The stop string that its content has come to."""
        self._num_calls = 0
        self._is_plain = parser is None and self._stops.is_empty
        """Nothing is looked for, so nothing is held back."""

    @property
    def has_calls(self) -> bool:
        """Whether a call was told, or is about to be."""
        return self._num_calls > 0

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is reasoning, as far as can be told."""
        return self._parser is not None and self._parser.is_reasoning

    def forced(self) -> tuple[int, ...]:
        """The ids that must come next, because there was enough reasoning."""
        budget = self._budget
        if budget is None or self._parser is None or not self._parser.is_reasoning:
            return ()
        more = self._num_reasoning - budget.tokens
        if more < 0 or (more < _CLOSING and self._parser.holds_back):  # it may be about to close
            return ()
        return budget.closing

    def hear(self, token: int, text: str, logprobs: TokenLogprobs | None = None) -> None:
        """One more token, and the text that it made sure."""
        if self._is_plain:
            self._hear_plainly(token, text, logprobs)
            return
        was_reasoning = self.is_reasoning
        pieces = self._pieces(text)
        if logprobs is not None:
            self._logprobs.append(logprobs)
        for piece in pieces:
            self._tell(piece)
        if self._parser is None:
            self._tell_logprobs()
        elif self.is_reasoning != was_reasoning:
            self._logprobs.clear()  # a marker: no text of anything
        self._num_reasoning += was_reasoning and self.is_reasoning
        self._last().tokens.append(token)

    def _hear_plainly(self, token: int, text: str, logprobs: TokenLogprobs | None) -> None:
        part = self._last()
        part.text += text
        part.tokens.append(token)
        if logprobs is not None:
            part.logprobs.append(logprobs)

    def end(self, text: str) -> None:
        """The turn is over: the rest of its text, and what was held back."""
        pieces = self._pieces(text)
        if self._parser is not None:
            pieces += self._parser.flush()
        for piece in pieces:
            self._tell(piece)
        self._let_go()
        if self.has_calls:
            self._logprobs.clear()
        self._tell_logprobs()

    def take(self) -> list[Event]:
        """What was told since the last call."""
        parts, self._parts = self._parts, []
        return [self._delta(part) for part in parts]

    def _pieces(self, text: str) -> list[Piece]:
        if not text:
            return []
        return [Content(text)] if self._parser is None else self._parser.feed(text)

    def _tell(self, piece: Piece) -> None:
        if self.stop is not None:
            return
        if isinstance(piece, Content):
            self._tell_content(piece.text)
            return
        self._let_go()
        if isinstance(piece, Call):
            self._logprobs.clear()
            part = _Part(Call, piece.arguments, piece.name, self._num_calls)
            self._parts.append(part)
            self._num_calls += 1
            return
        self._add(Reasoning, piece.text)
        self._tell_logprobs()

    def _tell_content(self, text: str) -> None:
        passed = self._stops.feed(text)
        self.stop = passed.stop
        if passed.text:
            self._add(Content, passed.text)
            self._tell_logprobs()
        else:
            self._held += self._logprobs
            self._logprobs.clear()

    def _let_go(self) -> None:
        """Content ends here, so what was held back of it is no stop string's beginning."""
        text = self._stops.flush()
        if text:
            self._add(Content, text)
            self._tell_held()

    def _add(self, kind: _Kind, text: str) -> None:
        last = self._parts[-1] if self._parts else None
        if last is None or last.kind is not kind:
            last = _Part(kind)
            self._parts.append(last)
        last.text += text

    def _tell_logprobs(self) -> None:
        self._tell_held()
        if self._logprobs:
            self._last().logprobs += self._logprobs
            self._logprobs.clear()

    def _tell_held(self) -> None:
        if self._held:
            self._last().logprobs += self._held
            self._held.clear()

    def _last(self) -> _Part:
        """What ids go with whose text is not sure yet."""
        if not self._parts:
            self._parts.append(_Part(Reasoning if self.is_reasoning else Content))
        return self._parts[-1]

    def _delta(self, part: _Part) -> Event:
        tokens, logprobs = tuple(part.tokens), tuple(part.logprobs)
        if part.kind is Call:
            return ToolCallDelta(
                self._request_id, part.call, part.name, part.text, tokens, self._choice
            )
        kind = ReasoningDelta if part.kind is Reasoning else TextDelta
        return kind(self._request_id, part.text, tokens, self._choice, logprobs)


@dataclass(frozen=True, slots=True)
class TurnForm:
    """What the turns of one request are read by; without a family nothing is looked for."""

    family: Family | None = None
    tools: tuple[Tool, ...] = ()
    starts_in_reasoning: bool = False
    has_begun: bool = False
    """The prompt ends within the answer."""
    shown: frozenset[int] = frozenset()
    """Control tokens whose text is part of what is read; others have none."""
    budget: Budget | None = None
    ends: tuple[str, ...] = ()
    """Texts that end generation as its tokens do: nobody asked for them, so nobody is told."""

    def begin(self, request_id: str, choice: int, stop: Sequence[str] = ()) -> Turn:
        """The turn of one choice; `stop`: texts that end its content."""
        if self.family is None:
            return Turn(request_id, choice, stop=stop)
        parser = Parser(
            self.family,
            tools=self.tools,
            starts_in_reasoning=self.starts_in_reasoning,
            has_begun=self.has_begun,
        )
        return Turn(request_id, choice, parser, self.budget, stop)


PLAIN = TurnForm()
"""All text is the answer's."""


def shown_tokens(family: Family, control_tokens: Mapping[str, int]) -> frozenset[int]:
    """The control tokens that stand in what a family writes, of those of a vocabulary by text."""
    written = list(_texts(family))
    if any(Slot.BARE in frame.call for frame in family.frames):
        written += BARE_QUOTING.quotes
    return frozenset(
        token for text, token in control_tokens.items() if any(text in one for one in written)
    )


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _texts(item)
    elif is_dataclass(value):
        for one in fields(value):
            yield from _texts(getattr(value, one.name))
