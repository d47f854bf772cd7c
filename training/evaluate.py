"""Scores on held-out prompts: python -m training.evaluate MODEL.gguf [--count N].

Prints the table of the model card. No combination that is asked here was ever trained on (see
`corpus.draw`). Answers are greedy, the stories of the first row sampled at temperature 0.7.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samovar.types import SamplingParams
from training import scoring
from training.corpus import instructions, mixture, numbers, questions, schemas, stories, talk, tools
from training.corpus.document import Conversation, prompt_text, segments
from training.corpus.draw import Draw
from training.engine import Engine, log_softmax, opened

_SEED = "evaluation"

Judge = Callable[[Conversation, str], bool]


@dataclass(frozen=True)
class Exam:
    """Prompts of a kind, and what counts as right."""

    title: str
    make: Callable[[Draw], Conversation]
    judge: Judge


def _says(asked: Conversation, answer: str) -> bool:
    return scoring.says(answer, asked.expected)


def _same(asked: Conversation, answer: str) -> bool:
    return bool(scoring.spoken(answer) == asked.messages[-1]["content"])


def _reasons(asked: Conversation, answer: str) -> bool:
    return answer.startswith("<think>\n") and "</think>" in answer and _says(asked, answer)


def _fits(asked: Conversation, answer: str) -> bool:
    return scoring.fits(scoring.parsed(answer), scoring.schema_in(asked))


def _is_exact(asked: Conversation, answer: str) -> bool:
    return scoring.parsed(answer) == scoring.parsed(asked.expected)


def _simple(draw: Draw) -> Conversation:
    kinds = (questions.fact, questions.reading, numbers.small_sum, numbers.comparison)
    return draw.one(kinds)(draw)


def _call(draw: Draw) -> Conversation:
    return draw.weighted((tools.call, tools.two_calls), (6, 1))(draw)


def _four_turns(draw: Draw) -> Conversation:
    return talk.name_memory(draw, mixture.short, gap=3)


def _thinking(draw: Draw) -> Conversation:
    made = numbers.problem(draw)
    while not made.may_think:
        made = numbers.problem(draw)
    return made


def _system(draw: Draw) -> Conversation:
    return draw.one((talk.persona, talk.informed))(draw)


def _answered(draw: Draw) -> Conversation:
    while True:
        made = tools.answer(draw)
        if made.category == "tool answer":
            return made


EXAMS = (
    Exam("Simple questions: right", _simple, _says),
    Exam("- of which questions about a short text", questions.reading, _says),
    Exam("- of which common facts", questions.fact, _says),
    Exam("- of which sums up to 20", numbers.small_sum, _says),
    Exam("Sums up to 99: right", numbers.large_sum, _says),
    Exam("Problems in two steps: reasons, then right", _thinking, _reasons),
    Exam("Counting: exact", numbers.counting, _says),
    Exam("Instructions: exact", instructions.instruction, _same),
    Exam("Functions: the right calls with the right arguments", _call, scoring.is_right_call),
    Exam("Function results: answered exactly", _answered, _same),
    Exam("JSON: fits the schema", schemas.structured, _fits),
    Exam("JSON: fits, and every value is right", schemas.structured, _is_exact),
    Exam("Remembers a name across four turns", _four_turns, _says),
    Exam("Heeds the system message", _system, _says),
)


def score(engine: Engine, exam: Exam, count: int, shown: int) -> float:
    """The share of right answers; the first wrong ones go to standard error."""
    right = 0
    for number in range(count):
        asked = exam.make(Draw(f"{_SEED}/{exam.make.__name__}/{number}", held_out=True))
        answer = engine.answer(asked)
        if exam.judge(asked, answer):
            right += 1
        elif shown > 0:
            shown -= 1
            question = asked.prompt[-1]["content"]
            sys.stderr.write(f"[{exam.title}] {question!r}: {answer!r}, not {asked.expected!r}\n")
    return right / count


def strange_stories(engine: Engine, count: int) -> tuple[int, list[str]]:
    """How many sampled stories hold a word that is none, and those words."""
    found: list[list[str]] = []
    for number in range(count):
        asked = stories.asked_story(Draw(f"{_SEED}/story/{number}", held_out=True))
        text = engine.write(prompt_text(asked), SamplingParams(temperature=0.7, seed=number))
        found.append(scoring.non_words(text))
    return sum(map(bool, found)), [word for words in found for word in words]


def perplexity(engine: Engine, count: int) -> float:
    """Over the tokens to be learnt of held-out documents."""
    total, tokens = 0.0, 0
    for document in mixture.documents(0, count, held_out=True):
        ids: list[int] = []
        is_learnt: list[bool] = []
        for segment in segments(document):
            found = engine.encode(segment.text)
            ids += found
            is_learnt += [segment.is_learnt] * len(found)
        ids, is_learnt = ids[:1024], is_learnt[:1024]
        logs = log_softmax(engine.scores(ids[:-1]))
        chosen = logs[np.arange(len(ids) - 1), ids[1:]][is_learnt[1:]]
        total -= float(chosen.sum())
        tokens += len(chosen)
    return math.exp(total / tokens)


def table(engine: Engine, count: int, shown: int) -> str:
    """The scores as markdown."""
    rows = ["| held-out prompts | score |", "| --- | --- |"]
    strange, words = strange_stories(engine, count)
    rows.append(f"| Stories at temperature 0.7 with a word that is none | {strange} of {count} |")
    if words:
        sys.stderr.write(f"no words: {words}\n")
    rows += [f"| {exam.title} | {score(engine, exam, count, shown):.1%} |" for exam in EXAMS]
    rows.append(f"| Perplexity | {perplexity(engine, count):.4f} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Evaluate as the command line says."""
    parser = argparse.ArgumentParser(prog="training.evaluate", description="Score a model file.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=200, help="prompts of each kind")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shown", type=int, default=3, help="wrong answers to show of each kind")
    given = parser.parse_args()
    with opened(given.model, threads=given.threads) as engine:
        sys.stdout.write(table(engine, given.count, given.shown))


if __name__ == "__main__":
    main()
