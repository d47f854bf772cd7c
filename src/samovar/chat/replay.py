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
from samovar.chat.replay_message import Said, said_in
from samovar.chat.replay_pieces import Tokenizer
from samovar.chat.replay_shown import Form, Ground, Recalled, Render, Shown
from samovar.chat.replay_turns import Turn, Turns
from samovar.chat.specials import Specials
from samovar.errors import SamovarError
from samovar.types import Message, Replayed

_MAX_PENDING = 1024  # finished turns that nobody settled: more than run at once


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
        self._ground = Ground(tokenizer, specials, source)
        self._now = now
        self.turns = turns
        self.pieces = self._ground.pieces
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
        shown = Shown(self._ground, asked.render, asked.form, messages, recalled)
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
    ) -> dict[int, Recalled]:
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

    def _fitting(self, turn: Turn, message: Message, said: Said, form: Form) -> Recalled | None:
        """A turn with its message, if that is the one which came back."""
        told = self.message_of(turn, form)
        if told is None:
            return None
        own = said_in(told)
        if (own.content, own.calls) != (said.content, said.calls):
            return None
        if said.reasoning and said.reasoning != own.reasoning:
            return None
        return Recalled(turn, replay_message.restored(message, told))

    def message_of(self, turn: Turn, form: Form) -> Message | None:
        """What the ids of a turn say; None: no text."""
        if turn.read is None or turn.read[0] != form.key:
            text = self._text(turn.ids, form)
            turn.read = None if text is None else (form.key, form.read(text, turn.tail))
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


def _digests(messages: Sequence[Message], salt: str) -> list[bytes]:
    """Of the conversation's beginnings, from the empty one on."""
    found = [replay_message.context(salt)]
    for message in messages:
        found.append(replay_message.extended(found[-1], message))
    return found
