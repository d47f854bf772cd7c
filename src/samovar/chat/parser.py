"""What a model writes, taken apart as it comes: content, reasoning and tool calls.

    start ──> content <──open, close──> reasoning
                 │ a frame opens
                 └──> calls ──> content      what is no call after all is content too

Text passes at once, but for the longest end of it that may become a marker, the blanks before that,
and calls, which are told as a whole. However the text comes in pieces, the same comes out, once
neighbours of a kind are joined. Nothing is lost but markers, and white space beside them.

White space around reasoning and calls is part of the frame and goes. A marker of reasoning counts
only where nothing was said before in the turn, so that an answer may speak of `<think>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from samovar.chat.arguments import Named
from samovar.chat.calls import CallReader, Schemas
from samovar.chat.reader import MismatchError, Reader, Reading
from samovar.chat.shapes import Family, Slot
from samovar.types import Tool

_GAP = 64
"""Characters of white space that wait for what follows; more of it is content, and passes."""


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of the text in which the model reasons."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A whole call of a tool."""

    name: str
    arguments: str
    """A JSON object; as the model wrote it, where it wrote JSON."""


Piece = Content | Reasoning | Call


class Parser:
    """Takes one turn of a model apart.

    `tools` are those of the request, in OpenAI's shape. Without any no calls are looked for, and
    the text of a call of any other tool is content. `starts_in_reasoning`: the prompt ends within
    reasoning (`choosing.starts_in_reasoning`); `has_begun`: within the answer. What `feed` takes is
    text with the control tokens written out, but without those that end generation.
    """

    def __init__(
        self,
        family: Family,
        *,
        tools: Iterable[Tool] | None = None,
        starts_in_reasoning: bool,
        has_begun: bool = False,
    ) -> None:
        schemas = tool_schemas(tools)
        self._reader = Reader()
        self._pieces: list[Piece] = []
        self._kind: type[Content] | type[Reasoning] = Content
        self._gap = ""
        self._is_anchored = not has_begun  # nothing was said since the start, or since a marker
        self._is_behind_marker = False  # so blanks are no part of the text
        self._calls: dict[str, CallReader] = {}
        self._close = family.reasoning.close.strip() if family.reasoning else ""
        self._open = family.reasoning.open.strip() if family.reasoning else ""
        self._begin_calls(family, schemas)
        self._anchored, self._loose = self._markers(family)
        self._within = Markers([self._close])
        if starts_in_reasoning and self._close:
            self._behind_marker(Reasoning)
        self._turn = self._read_turn()
        self._run()

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is reasoning, as far as can be told."""
        return self._kind is Reasoning

    @property
    def holds_back(self) -> bool:
        """Whether there is text of which it is not sure yet what it is, but for blanks."""
        return self._reader.left > 0

    def feed(self, text: str) -> list[Piece]:
        """More of what the model wrote. Gives what is sure now."""
        self._reader.feed(text)
        self._run()
        return self._told()

    def flush(self) -> list[Piece]:
        """The turn is over: what was held back. Nothing may be fed after it."""
        self._reader.has_ended = True
        self._run()
        if not self._is_behind_marker:
            self._tell(self._gap)
        self._gap = ""
        return self._told()

    def _run(self) -> None:
        next(self._turn, None)

    def _told(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    # ---- what may be met ---------------------------------------------------------------------

    def _begin_calls(self, family: Family, schemas: Schemas) -> None:
        for frame in family.frames if schemas else ():
            calls = CallReader(frame, schemas)
            bracket = "{" if frame.call[0] is Slot.ENVELOPE else "["
            for opener in calls.openers or (bracket,):
                self._calls[opener] = calls

    def _markers(self, family: Family) -> tuple[Markers, Markers]:
        """Those that count where nothing was said yet, and those that always do."""
        always = [marker.strip() for marker in family.drop]
        anchored = [self._open, self._close]
        for opener, calls in self._calls.items():
            (anchored if calls.is_anchored else always).append(opener)
            anchored.append(calls.close)  # of a section whose beginning was forgotten
        return Markers([*anchored, *always]), Markers(always)

    # ---- the turn ----------------------------------------------------------------------------

    def _read_turn(self) -> Reading[None]:
        reader = self._reader
        while True:
            marker = yield from self._prose()
            if not marker:
                return
            reader.begin()
            if self._kind is Content and marker in self._calls:
                yield from self._read_calls(self._calls[marker])
                continue
            reader.take(len(marker))
            is_opening = self._kind is Content and marker == self._open
            self._behind_marker(Reasoning if is_opening else Content)

    def _read_calls(self, calls: CallReader) -> Reading[None]:
        try:
            yield from calls.section(self._reader, self._found)
        except MismatchError:
            self._say(self._reader.taken)

    def _prose(self) -> Reading[str]:
        """Tell text up to the next marker, which is left, or to the end."""
        reader = self._reader
        if self._is_anchored and self._kind is Content:
            self._say((yield from reader.blanks()))
            marker = yield from reader.next_of(self._anchored.texts)
            if marker is not None:
                return marker
            self._say(reader.take(1))
        markers = self._live()
        while True:
            size, marker = markers.find(reader)
            self._say(reader.take(size))
            if marker or reader.has_ended:
                return marker
            reader.begin()
            yield

    def _live(self) -> Markers:
        """The markers that count anywhere in what is being said."""
        return self._loose if self._kind is Content else self._within

    def _found(self, call: Named) -> None:
        self._behind_marker(Content)
        self._pieces.append(Call(*call))

    def _behind_marker(self, kind: type[Content] | type[Reasoning]) -> None:
        self._kind = kind
        self._gap = ""
        self._is_anchored = self._is_behind_marker = True

    def _say(self, text: str) -> None:
        body = text.rstrip()
        if body:
            start = body.lstrip() if self._is_behind_marker else self._gap + body
            self._is_anchored = self._is_behind_marker = False
            self._tell(start)
            self._gap = ""
        if not self._is_behind_marker:
            gap = self._gap + text[len(body) :]
            held = min(len(gap), _GAP if self._live().texts else 0)
            self._tell(gap[: len(gap) - held])
            self._gap = gap[len(gap) - held :]

    def _tell(self, text: str) -> None:
        if not text:
            return
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, Content | Reasoning) and type(last) is self._kind:
            self._pieces[-1] = self._kind(last.text + text)
        else:
            self._pieces.append(self._kind(text))


class Markers:
    """Texts to look for, the longest first where several begin at one place."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(sorted(filter(None, dict.fromkeys(texts)), key=len, reverse=True))
        self._pattern = re.compile("|".join(map(re.escape, self.texts)) or "(?!)")
        self._heads = frozenset(text[:size] for text in self.texts for size in range(1, len(text)))
        self._reach = max(map(len, self.texts), default=1) - 1

    def find(self, reader: Reader) -> tuple[int, str]:
        """How much of what is left is no marker, and the marker behind that: "" where none is."""
        match = reader.search(self._pattern)
        unsure = reader.left if reader.has_ended else reader.left - self._head_at_end(reader)
        if match is not None and (reader.has_ended or match[0] < unsure):
            return match
        return unsure, ""

    def _head_at_end(self, reader: Reader) -> int:
        tail = reader.tail(self._reach)
        for at in range(len(tail)):
            if tail[at:] in self._heads:
                return len(tail) - at
        return 0


def tool_schemas(tools: Iterable[Tool] | None) -> dict[str, object]:
    """The names of tools, with the schemas of their arguments."""
    return {
        tool["function"]["name"]: tool["function"].get("parameters")
        for tool in tools or ()
        if tool["function"]["name"]
    }
