"""Events of a chat as one body."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from msgspec import UNSET

from samovar.api.openai.chat_output import (
    FINGERPRINT,
    Answer,
    AnswerChoice,
    AnswerMessage,
    ChatForm,
    Function,
    Head,
    ToolCall,
    call_id,
    stop_reason,
    wire_reason,
)
from samovar.api.openai.logprobs import chat_logprobs
from samovar.api.openai.usage import Tally
from samovar.types import (
    Choice,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
)


@dataclass(slots=True)
class _Call:
    name: str
    arguments: list[str] = field(default_factory=list)

    def function(self) -> Function:
        return Function(name=self.name, arguments="".join(self.arguments))


@dataclass(slots=True)
class _Said:
    """What one choice has said."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, _Call] = field(default_factory=dict)
    logprobs: list[TokenLogprobs] = field(default_factory=list)


class ChatCollector:
    """A Collector."""

    def __init__(self, head: Head, form: ChatForm) -> None:
        self._head = head
        self._form = form
        self._tally = Tally()
        self._said: dict[int, _Said] = {}
        self._choices: tuple[Choice, ...] = ()

    def feed(self, event: Event) -> None:
        """See Collector."""
        self._tally.feed(event)
        match event:
            case TextDelta():
                said = self._of(event.choice)
                said.texts.append(event.text)
                said.logprobs.extend(event.logprobs)
            case ReasoningDelta():
                self._of(event.choice).reasoning.append(event.text)
            case ToolCallDelta() if event.name or event.arguments:
                calls = self._of(event.choice).calls
                calls.setdefault(event.call, _Call(event.name)).arguments.append(event.arguments)
            case Finished():
                self._choices = event.choices

    def body(self) -> bytes:
        """See Collector."""
        head = self._head
        answer = Answer(
            head.id,
            "chat.completion",
            head.created,
            head.model,
            FINGERPRINT,
            tuple(self._choice(index, choice) for index, choice in enumerate(self._choices)),
            self._tally.usage(),
            self._tally.timings() or UNSET,
            self._tally.details() or UNSET,
        )
        return msgspec.json.encode(answer)

    def _of(self, choice: int) -> _Said:
        return self._said.setdefault(choice, _Said())

    def _choice(self, index: int, choice: Choice) -> AnswerChoice:
        said, pieces = self._of(index), self._form.pieces
        return AnswerChoice(
            index,
            self._message(index, said),
            None if pieces is None else chat_logprobs(said.logprobs, pieces),
            wire_reason(choice.reason, wants_functions=self._form.wants_functions),
            stop_reason(choice.stop),
        )

    def _message(self, index: int, said: _Said) -> AnswerMessage:
        text, reasoning = "".join(said.texts), "".join(said.reasoning) or UNSET
        content = text if text or not said.calls else None
        calls = tuple(
            ToolCall(
                id=call_id(self._head.id, index, number), type="function", function=one.function()
            )
            for number, one in said.calls.items()
        )
        old = self._form.wants_functions and calls
        return AnswerMessage(
            "assistant",
            content,
            reasoning_content=reasoning,
            reasoning=reasoning,
            tool_calls=UNSET if old or not calls else calls,
            function_call=calls[0].function if old else UNSET,
        )
