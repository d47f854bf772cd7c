"""Turns that were generated here become the ids that they were, when they come back as text.

    messages ── volatile rules ──> messages ── remembered turns put in ──> messages
             ── rendered, with and without marks ──> text, and where each turn stands in it
             ── the ids of turns that are explained, the tokens of all else ──> ids

A turn is explained when the text that the template writes for it, and the text of its ids, read by
the parser of what the model writes, say the same as the message that came. docs/stability.md has
the whole rule, and why nobody's text becomes a control token by it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from samovar.chat import replay_message, volatile
from samovar.chat.choosing import starts_in_reasoning
from samovar.chat.literal import Segment
from samovar.chat.parser import Parser
from samovar.chat.replay_marks import Marks, Place
from samovar.chat.replay_message import Said, said_in
from samovar.chat.replay_pieces import Pieces, Tokenizer
from samovar.chat.replay_turns import Turn, Turns
from samovar.chat.shapes import Family
from samovar.chat.specials import Specials
from samovar.errors import SamovarError
from samovar.types import Message, Replayed, ReplayRefusal, Tool

_MAX_PENDING = 1024  # finished turns that nobody settled: more than run at once

Render = Callable[[list[Message]], Sequence[Segment]]
"""Messages to the segments of a prompt, everything else of a request being as it is."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the turns of a conversation are read: by which family, with which tools."""

    family: Family
    tools: tuple[Tool, ...] = ()
    shown: frozenset[int] = frozenset()
    """Control tokens whose text is part of what is read; others have none."""

    def read(self, text: str, before: str) -> Message:
        """A turn that begins behind a text, as a plain message."""
        begins = starts_in_reasoning(self.family, before)
        parser = Parser(self.family, tools=self.tools, starts_in_reasoning=begins)
        return replay_message.message_of([*parser.feed(text), *parser.flush()])


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation, and what is wanted of its turns."""

    messages: Sequence[Message]
    """Plain."""
    render: Render
    form: Form
    salt: str = ""
    """Whose conversation it is."""
    replays: bool = True
    volatile: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """Behind what a turn is generated: enough to know it again."""

    context: bytes
    tail: str
    form: Form


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a conversation became."""

    tokens: list[int]
    report: Replayed
    origin: Origin | None
    """None: what is generated cannot be found again in a later prompt."""


@dataclass(frozen=True, slots=True)
class _Recalled:
    """A turn that may be replayed, and the message that it is."""

    turn: Turn
    message: Message


@dataclass(frozen=True, slots=True)
class _Region:
    """Where ids stand for what the template wrote."""

    start: int
    end: int
    turn: Turn


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Where the end of a turn is looked for."""

    first: int
    """The first mark of the turn."""
    last: int
    """Its last one."""
    limit: int
    """The next message's first."""


class Replay:
    """Remembers and replays the turns of one model. Thread-safe.

    `now` is what is today for `date` (see volatile). `source` is the template's.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        specials: Specials,
        turns: Turns,
        *,
        source: str,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._tokenizer = tokenizer
        self._specials = specials
        self._source = source
        self._now = now
        self.turns = turns
        self.pieces = Pieces(tokenizer, specials)
        self._pending: deque[tuple[Origin, tuple[int, ...]]] = deque(maxlen=_MAX_PENDING)

    # ---- a conversation comes in --------------------------------------------------------------

    def prompt(self, asked: Asked) -> Prompt:
        """The ids of a conversation. Raises what rendering it does, and InvalidRequest."""
        self.settle()
        messages, changes = volatile.applied(
            asked.messages,
            asked.volatile,
            salt=asked.salt,
            today=self._now().date(),
            first_values=self.turns.first_values,
        )
        count = sum(one["role"] == "assistant" for one in messages)
        if not asked.replays:
            tokens = self.pieces.ids(asked.render(messages))
            return Prompt(tokens, Replayed(turns=count, volatile=changes), None)
        digests = _digests(messages, asked.salt)
        recalled = self._recalled(messages, digests, asked.form)
        shown = _Shown(self, asked, messages, recalled)
        report = Replayed(
            turns=count,
            replayed=tuple(sorted(shown.regions)),
            refused=tuple(sorted(shown.refused.items())),
            tokens=sum(len(one.turn.ids) for one in shown.regions.values()),
            volatile=changes,
        )
        tail = shown.tail
        origin = None if tail is None else Origin(digests[-1], tail, asked.form)
        return Prompt(shown.tokens, report, origin)

    def _recalled(
        self, messages: Sequence[Message], digests: Sequence[bytes], form: Form
    ) -> dict[int, _Recalled]:
        found = {}
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                said = said_in(message)
                turns = self.turns.find(digests[number + 1])
                fitting = (self._fitting(turn, message, said, form) for turn in turns)
                first = next((one for one in fitting if one is not None), None)
                if first is not None:
                    found[number] = first
        return found

    def _fitting(self, turn: Turn, message: Message, said: Said, form: Form) -> _Recalled | None:
        """A turn with its message, if that is the one which came back."""
        told = self.message_of(turn, form)
        if told is None:
            return None
        own = said_in(told)
        if (own.content, own.calls) != (said.content, said.calls):
            return None
        if said.reasoning and said.reasoning != own.reasoning:
            return None
        return _Recalled(turn, replay_message.restored(message, told))

    def message_of(self, turn: Turn, form: Form) -> Message | None:
        """What the ids of a turn say; None: no text."""
        if turn.read is None or turn.read[0] != form:
            text = self._text(turn.ids, form)
            turn.read = None if text is None else (form, form.read(text, turn.tail))
        return None if turn.read is None else turn.read[1]

    def _text(self, ids: Sequence[int], form: Form) -> str | None:
        try:
            return self._tokenizer.spelled(ids, form.shown).decode()
        except (UnicodeDecodeError, SamovarError):
            return None  # cut off within a character, or ids of another vocabulary

    # ---- a turn is over -----------------------------------------------------------------------

    def remember(self, origin: Origin, tokens: Sequence[int]) -> None:
        """A turn was generated. Only notes it: `settle`, or the next prompt, does the rest."""
        self._pending.append((origin, tuple(tokens)))

    def settle(self) -> None:
        """Read the turns that were noted, and remember them."""
        while self._pending:
            try:
                origin, tokens = self._pending.popleft()
            except IndexError:  # another thread was quicker
                return
            ids = tokens[:-1] if tokens and self._tokenizer.is_end(tokens[-1]) else tokens
            turn = Turn(array("i", ids), origin.tail)
            told = self.message_of(turn, origin.form) if ids else None
            if told is not None:
                self.turns.add(replay_message.extended(origin.context, told), turn)

    def close(self) -> None:
        """Remember what was noted, and have it on the disk."""
        self.settle()
        self.turns.close()

    # ---- what stands in a prompt for a turn ---------------------------------------------------

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

    def end_of_turn(self, segments: Sequence[Segment], stretch: _Stretch) -> int | None:
        """Where the first token that ends generation stands, else a control token behind the marks.

        Only what the template wrote counts.
        """
        other = None
        at = 0
        for segment in segments:
            if segment.parse_special and at < stretch.limit:
                offset = max(at, stretch.first)
                part = segment.text[max(0, stretch.first - at) : max(0, stretch.limit - at)]
                for place, stop in sorted(self._specials.occurrences(part)):
                    if self._is_end(part[place:stop]):
                        return offset + place
                    if other is None and offset + place >= stretch.last:
                        other = offset + place
            at += len(segment.text)
        return other

    def _is_end(self, text: str) -> bool:
        ids = self._tokenizer.ids(text, parse_special=True, is_first=False)
        return len(ids) == 1 and self._tokenizer.is_end(ids[0])

    def marks(self, messages: Sequence[Message]) -> Marks | None:
        """Marks for a conversation."""
        return Marks.unlike(messages, self._source)


class _Shown:
    """One conversation as the template shows it, with turns in it as ids where that is sound."""

    def __init__(
        self,
        replay: Replay,
        asked: Asked,
        messages: Sequence[Message],
        recalled: dict[int, _Recalled],
    ) -> None:
        self._replay = replay
        self._form = asked.form
        self.refused: dict[int, ReplayRefusal] = {}
        self.regions: dict[int, _Region] = {}
        shown = [
            recalled[number].message if number in recalled else message
            for number, message in enumerate(messages)
        ]
        try:
            self._segments = asked.render(shown)
        except SamovarError:  # a template may refuse what the client left out
            if not recalled:
                raise
            shown = list(messages)
            self._segments = asked.render(shown)
        self._text = "".join(segment.text for segment in self._segments)
        self._last = len(messages) - 1
        self._places = self._marked(asked.render, shown)
        for number, one in recalled.items():
            self._place(number, one)
        self.tokens = replay.pieces.ids(self._mixed())

    @property
    def tail(self) -> str | None:
        """What stands behind the last message's last word; None: that was not found."""
        if not self._places or self._places[-1].message != self._last:
            return None
        return self._text[self._places[-1].position :]

    def _marked(self, render: Render, shown: list[Message]) -> list[Place]:
        """Where each message stands; nothing if that cannot be told."""
        marks = self._replay.marks(shown)
        if marks is None:
            return []
        try:
            rendered = "".join(segment.text for segment in render(marks.put_into(shown)))
        except SamovarError:
            return []
        text, places = marks.taken_out(rendered)
        return places if text == self._text else []

    def _place(self, number: int, one: _Recalled) -> None:
        found = self._region(number, one)
        if isinstance(found, _Region):
            self.regions[number] = found
        else:
            self.refused[number] = found

    def _region(self, number: int, one: _Recalled) -> _Region | ReplayRefusal:
        """Where a turn stands, or why its ids may not stand there."""
        at = next((at for at, one in enumerate(self._places) if one.message == number), 0)
        if not at or self._places[at - 1].message != number - 1:
            return "place"
        before, first = self._places[at - 1].position, self._places[at].position
        if not self._text[before:first].startswith(one.turn.tail):
            return "prompt"
        start = before + len(one.turn.tail)
        end = self._replay.end_of_turn(self._segments, self._stretch(at))
        if end is None:
            return "end"
        return self._explained(_Region(start, end, one.turn), one)

    def _stretch(self, at: int) -> _Stretch:
        """From the first mark of a message on, up to the next message's."""
        own = self._places[at]
        last = own.position
        for place in self._places[at + 1 :]:
            if place.message != own.message:
                return _Stretch(own.position, last, place.position)
            last = place.position
        return _Stretch(own.position, last, len(self._text))

    def _explained(self, region: _Region, one: _Recalled) -> _Region | ReplayRefusal:
        written = self._text[region.start : region.end]
        own = said_in(one.message)
        said = said_in(self._form.read(written, one.turn.tail))
        if said != own:
            is_same = (said.content, said.calls) == (own.content, own.calls)
            return "reasoning" if is_same else "text"
        text = self._slice(region.start, region.end)
        is_sound = self._replay.is_control_alike(one.turn, text, own, self._form)
        return region if is_sound else "control"

    def _slice(self, start: int, end: int) -> list[Segment]:
        found, at = [], 0
        for segment in self._segments:
            part = segment.text[max(0, start - at) : max(0, end - at)]
            if part:
                found.append(Segment(part, segment.parse_special))
            at += len(segment.text)
        return found

    def _mixed(self) -> list[Segment | Sequence[int]]:
        mixed: list[Segment | Sequence[int]] = []
        at = 0
        for number in sorted(self.regions):
            region = self.regions[number]
            mixed += [*self._slice(at, region.start), region.turn.ids]
            at = region.end
        return [*mixed, *self._slice(at, len(self._text))]


def _digests(messages: Sequence[Message], salt: str) -> list[bytes]:
    """Of the conversation's beginnings, from the empty one on."""
    found = [replay_message.context(salt)]
    for message in messages:
        found.append(replay_message.extended(found[-1], message))
    return found
