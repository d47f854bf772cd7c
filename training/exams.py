"""The exams: held-out prompts of each kind, and what counts as right.

No combination that is asked was ever trained on (see `corpus.draw`), but for the tables of
multiplication, which are facts, and small sums that are steps of a problem's reasoning. Answers are
greedy, so that a file has the same scores every time; only the stories are sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from samovar.types import SamplingParams
from training import scoring
from training.corpus import instructions, mixture, numbers, questions, schemas, stories, talk, tools
from training.corpus.document import Conversation, prompt_text, segments
from training.corpus.draw import Draw
from training.engine import Engine, log_softmax

_SEED = "evaluation"
STORY_TEMPERATURE = 0.7
_LONGEST_DOCUMENT = 1024
"""Tokens of a document that count for the perplexity: so all kinds do, and none for too much."""


@dataclass(frozen=True)
class Exam:
    """Prompts of a kind, and the judge of an answer."""

    title: str
    make: Callable[[Draw], Conversation]
    judge: Callable[[Conversation, str], bool]

    def prompt(self, number: int) -> Conversation:
        """The exam's prompt of that number, always the same."""
        return self.make(Draw(f"{_SEED}/{self.make.__name__}/{number}", held_out=True))


@dataclass(frozen=True)
class Marked:
    """An answer and whether it is right."""

    asked: Conversation
    answer: str
    is_right: bool


def marked(engine: Engine, exam: Exam, of: Iterable[int]) -> list[Marked]:
    """The greedy answers to those prompts of an exam."""
    found = []
    for number in of:
        asked = exam.prompt(number)
        answer = engine.answer(asked)
        found.append(Marked(asked, answer, exam.judge(asked, answer)))
    return found


def _says(asked: Conversation, answer: str) -> bool:
    return scoring.says(answer, asked.expected)


def _reasons(asked: Conversation, answer: str) -> bool:
    return scoring.reasons(answer) and scoring.is_same(asked, answer)


def _calls_nothing(_: Conversation, answer: str) -> bool:
    return "<tool_call>" not in answer


def _fits(asked: Conversation, answer: str) -> bool:
    return scoring.fits(scoring.parsed(answer), scoring.schema_in(asked))


def _is_exact(asked: Conversation, answer: str) -> bool:
    return scoring.parsed(answer) == scoring.parsed(asked.expected)


def _simple(draw: Draw) -> Conversation:
    kinds = (questions.fact, questions.reading, numbers.small_sum, numbers.comparison)
    return draw.one(kinds)(draw)


def _call(draw: Draw) -> Conversation:
    return draw.weighted((tools.call, tools.two_calls), (6, 1))(draw)


def _no_call(draw: Draw) -> Conversation:
    return tools.no_call(draw, draw.one((talk.small_talk, instructions.instruction)))


def _answered(draw: Draw) -> Conversation:
    while True:
        made = tools.answer(draw)
        if made.category == "tool answer":
            return made


def _thinking(draw: Draw) -> Conversation:
    made = numbers.problem(draw)
    while not made.may_think:
        made = numbers.problem(draw)
    return made


def _four_turns(draw: Draw) -> Conversation:
    return talk.name_memory(draw, mixture.short, gap=3)


def _system(draw: Draw) -> Conversation:
    return draw.one((talk.persona, talk.informed))(draw)


SIMPLE = Exam("Simple questions: right", _simple, scoring.is_same)
READING = Exam("- questions about a short text", questions.reading, scoring.is_same)
FACTS = Exam("- common facts", questions.fact, scoring.is_same)
SMALL_SUMS = Exam("- sums of numbers up to 20", numbers.small_sum, scoring.is_same)
COMPARISONS = Exam("- which number is larger", numbers.comparison, scoring.is_same)
LARGE_SUMS = Exam("Sums of numbers up to 99: right", numbers.large_sum, scoring.is_same)
PROBLEMS = Exam("Problems in two steps: reasons, then right", _thinking, _reasons)
COUNTING = Exam("Counting: exact", numbers.counting, scoring.is_same)
INSTRUCTIONS = Exam("Instructions: followed exactly", instructions.instruction, scoring.is_same)
CALLS = Exam("Functions: the right call, the right arguments", _call, scoring.is_right_call)
NO_CALLS = Exam("Functions: no call where none is needed", _no_call, _calls_nothing)
RESULTS = Exam("Function results: answered exactly", _answered, scoring.is_same)
JSON = Exam("JSON: valid and fits the schema", schemas.structured, _fits)
JSON_VALUES = Exam("JSON: and every value is right", schemas.structured, _is_exact)
NAMES = Exam("A name, remembered across four turns", _four_turns, _says)
SYSTEM = Exam("The system message, heeded", _system, _says)

EXAMS = (
    SIMPLE, READING, FACTS, SMALL_SUMS, COMPARISONS, LARGE_SUMS, PROBLEMS, COUNTING, INSTRUCTIONS,
    CALLS, NO_CALLS, RESULTS, JSON, JSON_VALUES, NAMES, SYSTEM,
)  # fmt: skip


def sampled_story(engine: Engine, number: int) -> str:
    """The story of that number, asked for by a held-out prompt."""
    asked = stories.asked_story(Draw(f"{_SEED}/story/{number}", held_out=True))
    params = SamplingParams(temperature=STORY_TEMPERATURE, seed=number)
    return engine.write(prompt_text(asked), params)


@dataclass
class Surprise:
    """Negative log-likelihood in nats, over a number of tokens."""

    nats: float = 0.0
    tokens: int = 0


def surprise(engine: Engine, of: Iterable[int]) -> Surprise:
    """Of the tokens to be learnt in those held-out documents."""
    found = Surprise()
    for number in of:
        ids: list[int] = []
        is_learnt: list[bool] = []
        for segment in segments(mixture.document(0, number, held_out=True)):
            more = engine.encode(segment.text)
            ids += more
            is_learnt += [segment.is_learnt] * len(more)
        ids, is_learnt = ids[:_LONGEST_DOCUMENT], is_learnt[:_LONGEST_DOCUMENT]
        logs = log_softmax(engine.scores(ids[:-1]))
        chosen = logs[np.arange(len(ids) - 1), ids[1:]][is_learnt[1:]]
        found.nats -= float(chosen.sum())
        found.tokens += len(chosen)
    return found
