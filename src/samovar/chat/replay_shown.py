"""A conversation as its template shows it, with the ids of turns in it where that is sound."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from samovar.chat import replay_message
from samovar.chat.choosing import starts_in_reasoning
from samovar.chat.literal import Segment
from samovar.chat.parser import Parser
from samovar.chat.replay_marks import Marks, Place
from samovar.chat.replay_message import Said, said_in
from samovar.chat.replay_pieces import Pieces, Tokenizer
from samovar.chat.replay_turns import Turn
from samovar.chat.shapes import Family
from samovar.chat.specials import Specials
from samovar.errors import SamovarError
from samovar.types import Message, ReplayRefusal, Tool

Render = Callable[[list[Message]], Sequence[Segment]]
"""Messages to the segments of a prompt, everything else of a request being as it is."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the turns of a conversation are read: by which family, with which tools."""

    family: Family
    tools: tuple[Tool, ...] = ()
    shown: frozenset[int] = frozenset()
    """Control tokens whose text is part of what is read; others have none."""
    key: bytes = field(init=False, compare=False)
    """The same for equal forms: what is remembered holds this, and not somebody's tools."""

    def __post_init__(self) -> None:
        spelled = repr((self.family, self.tools, sorted(self.shown)))
        key = hashlib.blake2b(spelled.encode("utf-8", "replace"), digest_size=24).digest()
        object.__setattr__(self, "key", key)

    def read(self, text: str, before: str) -> Message:
        """A turn that begins behind a text, as a plain message."""
        begins = starts_in_reasoning(self.family, before)
        parser = Parser(self.family, tools=self.tools, starts_in_reasoning=begins)
        return replay_message.message_of([*parser.feed(text), *parser.flush()])


@dataclass(frozen=True, slots=True)
class Recalled:
    """A turn that may be replayed, and the message that it is."""

    turn: Turn
    message: Message


@dataclass(frozen=True, slots=True)
class Region:
    """Where ids stand for what the template wrote."""

    start: int
    end: int
    turn: Turn


class Ground:
    """What all conversations of a model have in common: its vocabulary and its template."""

    def __init__(self, tokenizer: Tokenizer, specials: Specials, source: str) -> None:
        self._tokenizer = tokenizer
        self._specials = specials
        self._source = source
        self.pieces = Pieces(tokenizer, specials)

    def is_control_alike(self, turn: Turn, text: Sequence[Segment], said: Said, form: Form) -> bool:
        """Whether ids bring no control token into a prompt that is not the template's to write.

        Either they have those that the template's own text has, in that order, or each of theirs
        was read as a mark of the form, and no word of the turn spells one.
        """
        own = self._tokenizer.controls(turn.ids)
        if own == self._tokenizer.controls(self.pieces.ids_behind(text)):
            return True
        if not form.shown.issuperset(own):
            return False
        return not any(any(self._specials.occurrences(one)) for one in said.texts())

    def end_of_turn(self, segments: Sequence[Segment], last: int) -> int | None:
        """Where the first token that ends generation stands, else a control token behind `last`.

        In characters of the segments. Only what the template wrote counts.
        """
        other = None
        at = 0
        for segment in segments:
            spans = self._specials.occurrences(segment.text) if segment.parse_special else ()
            for place, stop in spans:
                if self._is_end(segment.text[place:stop]):
                    return at + place
                if other is None and at + place >= last:
                    other = at + place
            at += len(segment.text)
        return other

    def _is_end(self, text: str) -> bool:
        ids = self._tokenizer.ids(text, parse_special=True, is_first=False)
        return len(ids) == 1 and self._tokenizer.is_end(ids[0])

    def marks(self, messages: Sequence[Message]) -> Marks | None:
        """Marks for a conversation."""
        return Marks.unlike(messages, self._source)


class Shown:
    """One conversation as the template shows it, with turns in it as ids where that is sound."""

    def __init__(
        self,
        ground: Ground,
        render: Render,
        form: Form,
        messages: Sequence[Message],
        recalled: Mapping[int, Recalled],
    ) -> None:
        self._ground = ground
        self._form = form
        self.refused: dict[int, ReplayRefusal] = {}
        """By message: why it is tokenized anew."""
        self.regions: dict[int, Region] = {}
        """By message: where its ids stand."""
        shown = [
            recalled[number].message if number in recalled else message
            for number, message in enumerate(messages)
        ]
        try:
            self._segments = render(shown)
        except SamovarError:  # a template may refuse what the client left out
            if not recalled:
                raise
            shown = list(messages)
            self._segments = render(shown)
        self._text = "".join(segment.text for segment in self._segments)
        self._starts = list(accumulate((len(one.text) for one in self._segments), initial=0))
        self._last = len(messages) - 1
        self._places = self._marked(render, shown)
        self._firsts: dict[int, int] = {}
        for at, place in enumerate(self._places):
            self._firsts.setdefault(place.message, at)
        for number, one in recalled.items():
            self._place(number, one)
        self.tokens = ground.pieces.ids(self._mixed())

    @property
    def tail(self) -> str | None:
        """What stands behind the last message's last word; None: that was not found."""
        if not self._places or self._places[-1].message != self._last:
            return None
        return self._text[self._places[-1].position :]

    def _marked(self, render: Render, shown: list[Message]) -> list[Place]:
        """Where each message stands; nothing if that cannot be told."""
        marks = self._ground.marks(shown)
        if marks is None:
            return []
        try:
            rendered = "".join(segment.text for segment in render(marks.put_into(shown)))
        except SamovarError:
            return []
        text, places = marks.taken_out(rendered)
        return places if text == self._text else []

    def _place(self, number: int, one: Recalled) -> None:
        found = self._region(number, one)
        if isinstance(found, Region):
            self.regions[number] = found
        else:
            self.refused[number] = found

    def _region(self, number: int, one: Recalled) -> Region | ReplayRefusal:
        """Where a turn stands, or why its ids may not stand there."""
        at = self._firsts.get(number, 0)
        if not at or self._places[at - 1].message != number - 1:
            return "place"
        before, first = self._places[at - 1].position, self._places[at].position
        if not self._text[before:first].startswith(one.turn.tail):
            return "prompt"
        start = before + len(one.turn.tail)
        last, limit = self._stretch(at)
        size = self._ground.end_of_turn(self._slice(first, limit), last - first)
        if size is None:
            return "end"
        end = first + size
        refusal = self._refusal(self._slice(start, end), one)
        return refusal or Region(start, end, one.turn)

    def _stretch(self, at: int) -> tuple[int, int]:
        """A message's last mark, and the next message's first."""
        places, own = self._places, self._places[at].message
        behind = at + 1
        while behind < len(places) and places[behind].message == own:
            behind += 1
        limit = places[behind].position if behind < len(places) else len(self._text)
        return places[behind - 1].position, limit

    def _refusal(self, written: Sequence[Segment], one: Recalled) -> ReplayRefusal | None:
        """Why a turn may not stand for what the template writes; looked into once."""
        turn, key, digest = one.turn, self._form.key, _digest(written)
        if turn.verdict is None or turn.verdict[:2] != (key, digest):
            turn.verdict = (key, digest, self._judged(written, one))
        return turn.verdict[2]

    def _judged(self, written: Sequence[Segment], one: Recalled) -> ReplayRefusal | None:
        own = said_in(one.message)
        text = "".join(segment.text for segment in written)
        said = said_in(self._form.read(text, one.turn.tail))
        if said != own:
            is_same = (said.content, said.calls) == (own.content, own.calls)
            return "reasoning" if is_same else "text"
        is_sound = self._ground.is_control_alike(one.turn, written, own, self._form)
        return None if is_sound else "control"

    def _slice(self, start: int, end: int) -> list[Segment]:
        found: list[Segment] = []
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._segments) and self._starts[index] < end:
            segment, at = self._segments[index], self._starts[index]
            part = segment.text[max(0, start - at) : end - at]
            if part:
                found.append(Segment(part, segment.parse_special))
            index += 1
        return found

    def _mixed(self) -> list[Segment | Sequence[int]]:
        mixed: list[Segment | Sequence[int]] = []
        at = 0
        for number in sorted(self.regions):
            region = self.regions[number]
            mixed += [*self._slice(at, region.start), region.turn.ids]
            at = region.end
        return [*mixed, *self._slice(at, len(self._text))]


def _digest(written: Sequence[Segment]) -> bytes:
    made = hashlib.blake2b(digest_size=24)
    for segment in written:
        text = segment.text.encode()
        made.update(b"%d %d " % (segment.parse_special, len(text)))
        made.update(text)
    return made.digest()
