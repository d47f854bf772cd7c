"""What is remembered of conversations, between the requests of a worker and `chat.replay`.

    prompt ──> open request ── ids of its deltas ──> Finished, with a report; remembered

Every id is in exactly one delta, so what was generated is known here without asking anyone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from samovar.cache.store import wall_clock
from samovar.chat.literal import Segment
from samovar.chat.messages import plain_messages, plain_tools
from samovar.chat.prompt import request_renderer
from samovar.chat.replay import Asked, Origin, Prompt, Replay
from samovar.chat.replay_journal import Journal
from samovar.chat.replay_shown import Form
from samovar.chat.replay_turns import Turns
from samovar.chat.shapes import Family
from samovar.chat.specials import Specials
from samovar.chat.template import Renders
from samovar.chat.turn import shown_tokens
from samovar.native.segments import SegmentTokenizer
from samovar.native.vocabulary import Vocabulary
from samovar.types import (
    Chat,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    Message,
    ReasoningDelta,
    Replayed,
    TextDelta,
    Tool,
    ToolCallDelta,
)


@dataclass(slots=True)
class _Open:
    """A conversation that is being answered."""

    report: Replayed
    origin: Origin | None
    """None: what is generated is not remembered."""
    tokens: list[list[int]]
    """By choice, what was generated so far."""


class Replaying:
    """The conversations of one model. `told` is for the engine's thread, the rest for any."""

    def __init__(
        self,
        replay: Replay,
        render: Callable[[Mapping[str, Any]], Sequence[Segment]],
        control_tokens: Mapping[str, int],
    ) -> None:
        self._replay = replay
        self._render = render
        self._control_tokens = control_tokens
        self._form: Form | None = None
        self._open: dict[str, _Open] = {}
        self.has_news = False
        """Whether something was generated that `settle` has not looked at."""

    def prompt(self, chat: Chat, family: Family, salt: str) -> Prompt:
        """What a conversation becomes. Raises TemplateError, InvalidRequest."""
        tools = plain_tools(chat.tools) or []

        def render(messages: list[Message]) -> Sequence[Segment]:
            return self._render(
                {
                    "messages": messages,
                    "tools": tools or None,
                    "variables": chat.variables,
                    "thinks": chat.thinks,
                    "continues_last": chat.continues_last,
                }
            )

        messages, form = plain_messages(chat.messages), self._formed(family, tuple(tools))
        replays = chat.replays is not False
        asked = Asked(messages, render, form, salt, replays, chat.volatile or ())
        return self._replay.prompt(asked)

    def _formed(self, family: Family, tools: tuple[Tool, ...]) -> Form:
        """How turns are read; the same object while nothing of it changes, which compares fast."""
        last = self._form
        if last is None or (last.family, last.tools) != (family, tools):
            last = Form(family, tools, shown_tokens(family, self._control_tokens))
            self._form = last
        return last

    def begin(self, request: GenerateRequest, prompt: Prompt, closing: str = "") -> None:
        """A request goes to the engine; `closing`: what was put behind its prompt."""
        chat = request.chat
        is_kept = request.is_stored and chat is not None and not chat.continues_last
        origin = prompt.origin if is_kept else None
        if origin is not None and closing:
            origin = replace(origin, tail=origin.tail + closing)
        said = request.generated or ((),) * request.choices
        self._open[request.request_id] = _Open(prompt.report, origin, [list(one) for one in said])

    def told(self, events: Iterable[Event]) -> list[Event]:
        """The events as they go out: what ends a conversation says what was replayed."""
        return [self._told(event) for event in events]

    def settle(self) -> None:
        """Remember what was generated; writes to the disk."""
        self.has_news = False
        self._replay.settle()

    def close(self) -> None:
        """The same, and wait until it is on the device."""
        self._replay.close()

    def _told(self, event: Event) -> Event:
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                known = self._open.get(event.request_id)
                if known is not None and event.choice < len(known.tokens):
                    known.tokens[event.choice] += event.tokens
            case Finished():
                known = self._open.pop(event.request_id, None)
                if known is not None:
                    self._remember(known)
                    return msgspec.structs.replace(event, replayed=known.report)
            case Failed():
                self._open.pop(event.request_id, None)
        return event

    def _remember(self, known: _Open) -> None:
        for tokens in known.tokens if known.origin is not None else ():
            if tokens and known.origin is not None:
                self._replay.remember(known.origin, tokens)
                self.has_news = True


def open_replaying(vocabulary: Vocabulary, renderer: Renders, folder: Path | None) -> Replaying:
    """What a model's conversations go through; `folder`: where turns outlive the process."""
    namespace = hashlib.sha256(renderer.source.encode("utf-8", "replace")).digest()
    journal = None if folder is None else Journal(folder, namespace)
    specials = Specials(vocabulary.control_texts)
    replay = Replay(
        SegmentTokenizer(vocabulary),
        specials,
        Turns(namespace, wall_clock, journal),
        source=renderer.source,
    )
    return Replaying(replay, request_renderer(renderer, specials), vocabulary.control_tokens)
