"""What the library gives back: answers as a whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from samovar.errors import from_code
from samovar.types import (
    Choice,
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
    Usage,
)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made."""

    name: str
    arguments: str
    """A JSON object, as text."""

    def values(self) -> dict[str, Any]:
        """The arguments by name."""
        found: dict[str, Any] = json.loads(self.arguments)
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a prompt."""

    text: str
    tokens: tuple[int, ...]
    """The ids that were generated, the end of generation included."""
    finish_reason: FinishReason
    seed: int
    """What it drew with: the same seed gives the same answer."""
    stop: str | int | None = None
    """The stop string or token that ended it."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    reasoning: str = ""
    """What came before the answer, in conversations."""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """Everything that came of a request."""

    answers: tuple[Answer, ...]
    usage: Usage
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Of the first answer."""
        return self.answers[0].text

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of the first answer."""
        return self.answers[0].tokens

    @property
    def reasoning(self) -> str:
        """Of the first answer."""
        return self.answers[0].reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Of the first answer."""
        return self.answers[0].tool_calls

    @property
    def finish_reason(self) -> FinishReason:
        """Of the first answer."""
        return self.answers[0].finish_reason


@dataclass(slots=True)
class _Heard:
    """What came of one choice so far."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    calls: dict[int, ToolCall] = field(default_factory=dict)

    def take(self, event: TextDelta | ReasoningDelta | ToolCallDelta) -> None:
        self.tokens += event.tokens
        if isinstance(event, ToolCallDelta):
            begun = self.calls.get(event.call, ToolCall("", ""))
            whole = begun.arguments + event.arguments
            self.calls[event.call] = ToolCall(begun.name or event.name, whole)
            return
        (self.texts if isinstance(event, TextDelta) else self.reasoning).append(event.text)
        self.logprobs += event.logprobs

    def answer(self, choice: Choice) -> Answer:
        return Answer(
            "".join(self.texts),
            tuple(self.tokens),
            choice.reason,
            choice.seed,
            choice.stop,
            tuple(self.logprobs),
            "".join(self.reasoning),
            tuple(self.calls.values()),
        )


class Collector:
    """Puts the events of one request together."""

    def __init__(self) -> None:
        self._heard: dict[int, _Heard] = {}

    def take(self, event: Event) -> Completion | None:
        """What came of the request, once it has ended. Raises the error that ended it."""
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                self._of(event.choice).take(event)
            case Finished(choices=choices):
                answers = tuple(self._of(i).answer(choice) for i, choice in enumerate(choices))
                return Completion(answers, event.usage, event.warnings)
            case Failed(code=code, message=message):
                raise from_code(code, message)
        return None

    def _of(self, choice: int) -> _Heard:
        return self._heard.setdefault(choice, _Heard())
