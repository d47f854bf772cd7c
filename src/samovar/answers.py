"""What the library gives back: answers as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from samovar.errors import from_code
from samovar.types import (
    Event,
    Failed,
    Finished,
    FinishReason,
    TextDelta,
    TokenLogprobs,
    Usage,
)


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
    def finish_reason(self) -> FinishReason:
        """Of the first answer."""
        return self.answers[0].finish_reason


class Collector:
    """Puts the events of one request together."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._tokens: dict[int, list[int]] = {}
        self._logprobs: dict[int, list[TokenLogprobs]] = {}

    def take(self, event: Event) -> Completion | None:
        """What came of the request, once it has ended. Raises the error that ended it."""
        match event:
            case TextDelta():
                self._texts.setdefault(event.choice, []).append(event.text)
                self._tokens.setdefault(event.choice, []).extend(event.tokens)
                self._logprobs.setdefault(event.choice, []).extend(event.logprobs)
            case Finished():
                return self._whole(event)
            case Failed(code=code, message=message):
                raise from_code(code, message)
        return None

    def _whole(self, end: Finished) -> Completion:
        answers = tuple(
            Answer(
                "".join(self._texts.get(i, [])),
                tuple(self._tokens.get(i, [])),
                choice.reason,
                choice.seed,
                choice.stop,
                tuple(self._logprobs.get(i, [])),
            )
            for i, choice in enumerate(end.choices)
        )
        return Completion(answers, end.usage, end.warnings)
