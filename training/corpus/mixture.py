"""What the corpus is made of, and how often; the stream of documents for a seed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import replace

from training.corpus import (
    instructions,
    numbers,
    questions,
    schemas,
    stories,
    talk,
    tools,
)
from training.corpus.document import Conversation, Document, Story
from training.corpus.draw import Draw

Make = Callable[[Draw], Conversation]

_SHORT: dict[Make, float] = {
    questions.fact: 3,
    numbers.small_sum: 3,
    instructions.instruction: 4,
    instructions.naming: 1,
    talk.small_talk: 3,
    numbers.counting: 2,
    numbers.comparison: 1,
    questions.unknown: 1.5,
}
"""Exchanges short enough to stand between others."""


def short(draw: Draw) -> Conversation:
    """One short exchange of any kind."""
    return draw.weighted(list(_SHORT), list(_SHORT.values()))(draw)


def chat(draw: Draw) -> Conversation:
    """A few exchanges, one after the other."""
    made = [_turn(draw) for _ in range(draw.number(2, 5))]
    return _joined(made)


def long_chat(draw: Draw) -> Conversation:
    """A conversation that fills much of the context, with memory from its beginning."""
    return talk.memory(draw, _turn, gap=draw.number(12, 36))


def _turn(draw: Draw) -> Conversation:
    return draw.one((short, short, short, questions.reading, _plain_problem, stories.asked_story))(
        draw
    )


def _plain_problem(draw: Draw) -> Conversation:
    """A problem as history: the template leaves reasoning of earlier turns out."""
    made = numbers.problem(draw)
    reply = {"role": "assistant", "content": made.messages[-1]["content"]}
    return replace(made, messages=[*made.messages[:-1], reply], may_think=True)


def _joined(made: list[Conversation]) -> Conversation:
    """One conversation of several; only the last answer may reason, being the only one shown."""
    messages = [message for one in made for message in one.messages]
    return Conversation("chat", messages, made[-1].expected)


def _manner(draw: Draw) -> Conversation:
    return talk.manner(draw, draw.one((questions.fact, numbers.small_sum, talk.small_talk)))


def _memory(draw: Draw) -> Conversation:
    return talk.memory(draw, short)


def _spelled_sum_in_talk(draw: Draw) -> Conversation:
    return _joined([*(short(draw) for _ in range(draw.number(1, 3))), numbers.spelled_sum(draw)])


def _not_told(draw: Draw) -> Conversation:
    return talk.not_told(draw, short)


def _no_call(draw: Draw) -> Conversation:
    return tools.no_call(draw, talk.small_talk if draw.chance(0.5) else instructions.instruction)


def _story(draw: Draw) -> Document:
    return stories.story(draw)


_SHARES: dict[Callable[[Draw], Document], float] = {
    _story: 8,
    stories.asked_story: 8,
    stories.begun_story: 2,
    short: 15,
    questions.fact: 4,
    questions.reading: 10,
    instructions.copying: 6,
    numbers.small_sum: 5,
    numbers.large_sum: 4,
    numbers.problem: 6,
    numbers.thoughtful_sum: 3,
    chat: 4,
    long_chat: 0.2,
    _memory: 8,
    _not_told: 1.5,
    talk.persona: 4,
    talk.informed: 3,
    _manner: 3,
    schemas.structured: 8,
    tools.call: 10,
    tools.two_calls: 2,
    tools.answer: 6,
    _no_call: 3,
}
"""Of every hundred documents or so, how many are of a kind."""

_SECOND_SHARES: dict[Callable[[Draw], Document], float] = {
    **_SHARES,
    _story: 3,
    stories.asked_story: 4,
    stories.begun_story: 1,
    short: 6,
    questions.fact: 3,
    questions.reading: 14,
    questions.readings: 40,
    instructions.copying: 4,
    numbers.small_sum: 14,
    numbers.large_sum: 12,
    numbers.comparison: 7,
    numbers.counting: 5,
    numbers.problem: 2,
    numbers.thoughtful_sum: 1,
    chat: 3,
    long_chat: 0.1,
    _memory: 5,
    schemas.structured: 3,
    tools.call: 6,
    tools.two_calls: 1,
    tools.answer: 3,
    _no_call: 2,
}
"""The second part: more of what took longest to learn, which is to find who has what in a text, and
to compute."""

_THIRD_SHARES: dict[Callable[[Draw], Document], float] = {
    **_SECOND_SHARES,
    _story: 4,
    stories.asked_story: 6,
    questions.fact: 9,
    questions.reading: 14,
    questions.readings: 16,
    instructions.copying: 2,
    instructions.instruction: 3,
    numbers.small_sum: 18,
    numbers.large_sum: 10,
    numbers.comparison: 2,
    numbers.counting: 2,
    numbers.problem: 4,
    chat: 2,
    schemas.structured: 4,
    tools.call: 7,
    tools.answer: 4,
}
"""The third part: sums above all, and everything else again."""

_FOURTH_SHARES: dict[Callable[[Draw], Document], float] = {
    **_THIRD_SHARES,
    questions.fact: 8,
    questions.reading: 12,
    questions.who: 12,
    numbers.small_sum: 0,
    numbers.small_digits: 14,
    numbers.large_sum: 12,
    numbers.spelled_sum: 18,
    numbers.spelled_chain: 6,
    numbers.written: 4,
    _spelled_sum_in_talk: 4,
    tools.unusual_call: 6,
    tools.unusual_answer: 2,
}
"""The fourth part: sums in words, reasoned through in digits; who of several people it is; words
never met before as arguments of functions."""

BEGINNINGS = (0, 179_454, 233_181, 260_317)
"""The numbers of the documents with which the parts begin: what the first 2,500, 3,100 and 3,400
steps take with the seed 1."""

_MIXTURES = tuple(
    (list(shares), list(shares.values()))
    for shares in (_SHARES, _SECOND_SHARES, _THIRD_SHARES, _FOURTH_SHARES)
)

_EARLY = 60_000
_EARLY_COPYING = 0.4
"""Of the first documents so many are rows of words to copy: a model that looks things up in its
context early has the rest of the training to learn what to look up."""


def document(seed: int, index: int, *, held_out: bool = False) -> Document:
    """The document of that number in the seed's endless corpus."""
    part = 0 if held_out else bisect_right(BEGINNINGS, index) - 1
    side = "held out" if held_out else "train"
    draw = Draw(f"{seed}/{side}/{index}", held_out=held_out, is_late=held_out or part > 0)
    if index < _EARLY and not held_out and draw.chance(_EARLY_COPYING):
        return instructions.copying(draw)
    makers, weights = _MIXTURES[part]
    return draw.weighted(makers, weights)(draw)


def documents(seed: int, count: int, *, held_out: bool = False) -> Iterator[Document]:
    """The first documents of a seed."""
    return (document(seed, index, held_out=held_out) for index in range(count))


def words_of(document: Document) -> str:
    """The text of a document without its marks."""
    if isinstance(document, Story):
        return document.text
    return " ".join(str(message["content"]) for message in document.messages)
