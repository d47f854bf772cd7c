"""Events of completions, of one prompt or of several, as a stream and as one body."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from samovar.api.openai.chat_output import FINGERPRINT, Head, stop_reason
from samovar.api.openai.completion_prompt import ToldPrompt
from samovar.api.openai.logprobs import Offsets, Pieces, TextLogprobs, text_logprobs
from samovar.api.openai.sse import DONE, PING, data_of, failed_stream
from samovar.api.openai.usage import Details, Tally, WireTimings, WireUsage
from samovar.api.wire import SSE
from samovar.types import (
    Choice,
    Event,
    Failed,
    Finished,
    PromptScores,
    TextDelta,
    TokenLogprobs,
)


@dataclass(frozen=True, slots=True)
class CompletionForm:
    """What was asked of the form of an answer."""

    requests: tuple[str, ...]
    """The id of each prompt's request, in their order."""
    num_kept: int = 1
    """How many choices of each are told; where more were made, the likeliest."""
    echoes: tuple[str, ...] = ()
    """What stands before the text of each prompt's choices; (): nothing."""
    includes_usage: bool = False
    pieces: Pieces | None = None
    """The bytes of tokens; None: log-probabilities were not asked for."""
    prompts: tuple[ToldPrompt, ...] = ()
    """What stands before the text, with log-probabilities; (): they were not asked for."""

    def number(self, request_id: str) -> int:
        """Which prompt it is."""
        return self.requests.index(request_id)

    def echo(self, prompt: int) -> str:
        """What stands before the text, as one piece."""
        return self.echoes[prompt] if self.echoes else ""


class TextChoice(msgspec.Struct, frozen=True):
    """A choice, or what is new of one."""

    text: str
    index: int
    logprobs: TextLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None
    stop_reason: str | UnsetType = UNSET


class Text(msgspec.Struct, frozen=True):
    """A body, or one event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[TextChoice, ...]
    usage: WireUsage | UnsetType = UNSET
    timings: WireTimings | UnsetType = UNSET
    samovar: Details | UnsetType = UNSET


def _reason(choice: Choice) -> Literal["stop", "length"]:
    return "length" if choice.reason == "length" else "stop"


def _text(
    head: Head, choices: tuple[TextChoice, ...], tally: Tally | None = None, *, usage: bool = False
) -> Text:
    made = Text(head.id, "text_completion", head.created, head.model, FINGERPRINT, choices)
    if tally is None:
        return made
    return msgspec.structs.replace(
        made,
        usage=tally.usage() if usage else UNSET,
        timings=tally.timings() or UNSET,
        samovar=tally.details() or UNSET,
    )


class CompletionEncoder:
    """An Encoder of all prompts' events, however they come among each other."""

    media_type = SSE

    def __init__(self, head: Head, form: CompletionForm) -> None:
        self._head = head
        self._form = form
        self._tally = Tally()
        self._offsets: dict[int, Offsets] = {}
        """By index, of those that have begun."""
        self._told: dict[int, int] = {}
        """How many tokens of each prompt were told."""
        self._running = len(form.requests)

    def feed(self, event: Event) -> bytes:
        """See Encoder. The last prompt's end ends the stream."""
        self._tally.feed(event)
        match event:
            case TextDelta():
                return b"".join(self._delta(event))
            case PromptScores():
                return b"".join(self._prompt(event))
            case Finished():
                return b"".join(self._end(event))
            case Failed():
                return failed_stream(event)
        return b""

    def ping(self) -> bytes:
        """See Encoder."""
        return PING

    def _delta(self, event: TextDelta) -> Iterator[bytes]:
        prompt = self._form.number(event.request_id)
        index = prompt * self._form.num_kept + event.choice
        yield from self._begin(prompt, index)
        pieces = self._form.pieces
        logprobs = None
        if pieces is not None and event.logprobs:
            offsets = self._offsets[index].of(event.logprobs, pieces)
            logprobs = text_logprobs(event.logprobs, pieces, offsets)
        if event.text or logprobs is not None:
            yield data_of(_text(self._head, (TextChoice(event.text, index, logprobs),)))

    def _prompt(self, event: PromptScores) -> Iterator[bytes]:
        prompt = self._form.number(event.request_id)
        start = self._told.get(prompt, 0)
        self._told[prompt] = event.start + len(event.logprobs)
        for choice in range(self._form.num_kept):
            index = prompt * self._form.num_kept + choice
            yield self._part(prompt, index, start, event.logprobs)

    def _part(
        self, prompt: int, index: int, start: int, scores: tuple[TokenLogprobs, ...]
    ) -> bytes:
        told, pieces = self._form.prompts[prompt], self._form.pieces or {}
        end = start + len(scores) + (start == 0)
        choice = TextChoice(told.part(start, end), index, told.logprobs(start, scores, pieces))
        return data_of(_text(self._head, (choice,)))

    def _begin(self, prompt: int, index: int) -> Iterator[bytes]:
        if index in self._offsets:
            return
        echo = self._form.echo(prompt)
        self._offsets[index] = Offsets(len(echo))
        if self._form.prompts:
            if prompt not in self._told:  # of one token, which has no score
                yield self._part(prompt, index, 0, ())
        elif echo:
            yield data_of(_text(self._head, (TextChoice(echo, index),)))

    def _end(self, event: Finished) -> Iterator[bytes]:
        self._running -= 1
        prompt = self._form.number(event.request_id)
        first = prompt * self._form.num_kept
        last = first + len(event.choices) - 1
        for index, choice in enumerate(event.choices, first):
            yield from self._begin(prompt, index)
            ended = TextChoice("", index, None, _reason(choice), stop_reason(choice.stop))
            is_last = not self._running and index == last
            yield data_of(_text(self._head, (ended,), self._tally if is_last else None))
        if self._running:
            return
        if self._form.includes_usage:
            yield data_of(_text(self._head, (), self._tally, usage=True))
        yield DONE


@dataclass(slots=True)
class _Said:
    """What one choice has said."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    @property
    def likelihood(self) -> float:
        """By which the best are chosen: the mean over the tokens, lest the shortest win."""
        if not self.logprobs:
            return -math.inf
        return sum(one.chosen for one in self.logprobs) / len(self.logprobs)


class CompletionCollector:
    """A Collector of all prompts' events."""

    def __init__(self, head: Head, form: CompletionForm) -> None:
        self._head = head
        self._form = form
        self._tally = Tally()
        self._said: dict[tuple[int, int], _Said] = {}
        """By prompt and choice."""
        self._ends: dict[int, tuple[Choice, ...]] = {}
        self._scores: dict[int, list[TokenLogprobs]] = {}
        """Of each prompt, from its second token on."""

    def feed(self, event: Event) -> None:
        """See Collector."""
        self._tally.feed(event)
        match event:
            case TextDelta():
                said = self._of(self._form.number(event.request_id), event.choice)
                said.texts.append(event.text)
                said.logprobs.extend(event.logprobs)
            case PromptScores():
                prompt = self._form.number(event.request_id)
                self._scores.setdefault(prompt, []).extend(event.logprobs)
            case Finished():
                self._ends[self._form.number(event.request_id)] = event.choices

    def body(self) -> bytes:
        """See Collector."""
        choices = tuple(one for prompt in sorted(self._ends) for one in self._choices(prompt))
        return msgspec.json.encode(_text(self._head, choices, self._tally, usage=True))

    def _of(self, prompt: int, choice: int) -> _Said:
        return self._said.setdefault((prompt, choice), _Said())

    def _choices(self, prompt: int) -> Iterator[TextChoice]:
        kept, ends = self._form.num_kept, self._ends[prompt]
        order = range(len(ends))
        if len(ends) > kept:
            order = sorted(order, key=lambda i: -self._of(prompt, i).likelihood)[:kept]  # type: ignore[assignment]
        for place, number in enumerate(order):
            yield self._choice(prompt, number, prompt * kept + place)

    def _choice(self, prompt: int, number: int, index: int) -> TextChoice:
        said, ended = self._of(prompt, number), self._ends[prompt][number]
        echo, pieces = self._form.echo(prompt), self._form.pieces
        logprobs = None
        if pieces is not None:
            offsets = Offsets(len(echo)).of(said.logprobs, pieces)
            logprobs = text_logprobs(said.logprobs, pieces, offsets)
            if self._form.prompts:
                scores = self._scores.get(prompt, [])
                logprobs = self._form.prompts[prompt].logprobs(0, scores, pieces).before(logprobs)
        text = echo + "".join(said.texts)
        return TextChoice(text, index, logprobs, _reason(ended), stop_reason(ended.stop))
