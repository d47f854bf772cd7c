"""A document of the corpus, and the text that training makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from samovar.chat.template import Template

Message = dict[str, Any]
Tool = dict[str, Any]

START, END, DIVIDER = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_OPENING = f"{START}assistant\n"

TEMPLATE_PATH = Path(__file__).parent.parent / "chat_template.jinja"


@dataclass(frozen=True)
class Story:
    """Plain text, all of it to be learnt."""

    text: str
    category: str = "story"


@dataclass(frozen=True)
class Conversation:
    """Messages of which the assistant's are to be learnt.

    `expected` is what a right last answer says: its key word, number, call or JSON text.
    """

    category: str
    messages: list[Message]
    expected: str = ""
    tools: list[Tool] = field(default_factory=list)
    may_think: bool = True
    """Whether the reply is rendered as one that may reason first."""

    @property
    def prompt(self) -> list[Message]:
        """What stands before the last answer."""
        return self.messages[:-1]


Document = Story | Conversation


@dataclass(frozen=True)
class Segment:
    """A stretch of training text, and whether its tokens are to be predicted."""

    text: str
    is_learnt: bool


@cache
def template() -> Template:
    """The chat template that the model file carries."""
    return Template(TEMPLATE_PATH.read_text(encoding="utf-8"))


def prompt_text(conversation: Conversation) -> str:
    """The text after which the model writes its last answer."""
    options = {} if conversation.may_think else {"enable_thinking": False}
    tools = conversation.tools or None
    return template().render(conversation.prompt, tools, **options)


def segments(document: Document) -> list[Segment]:
    """The document's text, cut where learning begins and ends."""
    if isinstance(document, Story):
        return [Segment(document.text + DIVIDER, is_learnt=True)]
    if not document.may_think:
        reply = document.messages[-1]["content"] + END
        return [*_cut(prompt_text(document), is_open=True), Segment(reply, is_learnt=True)]
    tools = document.tools or None
    text = template().render(document.messages, tools, add_generation_prompt=False)
    return _cut(text, is_open=False)


def _cut(text: str, *, is_open: bool) -> list[Segment]:
    """The assistant's turns, with the end that it has to write, apart from all else.

    An open text ends within the last of them, at the point from which the model goes on.
    """
    head, *turns = text.split(_OPENING)
    found = [Segment(head, is_learnt=False)]
    for number, turn in enumerate(turns, start=1):
        found.append(Segment(_OPENING, is_learnt=False))
        if is_open and number == len(turns):
            found.append(Segment(turn, is_learnt=False))
            continue
        reply, end, rest = turn.partition(END)
        found += [Segment(reply + end, is_learnt=True), Segment(rest, is_learnt=False)]
    return [segment for segment in found if segment.text]


def user(text: str) -> Message:
    """What the user says."""
    return {"role": "user", "content": text}


def assistant(text: str, reasoning: str = "") -> Message:
    """What the model answers, perhaps after some reasoning."""
    message = {"role": "assistant", "content": text}
    return {**message, "reasoning_content": reasoning} if reasoning else message


def system(text: str) -> Message:
    """What the model is told first."""
    return {"role": "system", "content": text}


def exchange(
    category: str, question: str, answer: str, expected: str = "", reasoning: str = ""
) -> Conversation:
    """One question and its answer."""
    return Conversation(category, [user(question), assistant(answer, reasoning)], expected)
