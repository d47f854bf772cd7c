"""Scores on held-out prompts: python -m training.evaluate MODEL.gguf [--count N] [--processes N].

Prints the table of the model card. Every number of it is a sum over prompts, so how many processes
share them makes no difference.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from training import scoring
from training.engine import Engine, opened
from training.exams import EXAMS, STORY_TEMPERATURE, marked, sampled_story, surprise

_STORIES = f"Stories at temperature {STORY_TEMPERATURE}"


@dataclass
class Row:
    """A line of the table: a sum over a number of things, and how it is shown."""

    total: float
    count: int
    form: str


_FORMS: dict[str, Callable[[Row], str]] = {
    "share": lambda row: f"{row.total / row.count:.1%}",
    "number": lambda row: f"{row.total:.0f} of {row.count}",
    "perplexity": lambda row: f"{math.exp(row.total / row.count):.4f}",
}

Rows = dict[str, Row]


def measured(engine: Engine, of: range, shown: int) -> Rows:
    """The rows over those prompts of each kind; the first wrong answers go to standard error."""
    rows = _stories(engine, of)
    for exam in EXAMS:
        answers = marked(engine, exam, of)
        rows[exam.title] = Row(sum(one.is_right for one in answers), len(answers), "share")
        for one in [one for one in answers if not one.is_right][:shown]:
            question, reply = one.asked.prompt[-1]["content"], one.asked.messages[-1]
            wanted = reply["content"] or one.asked.expected
            sys.stderr.write(f"[{exam.title}] {question!r}: {one.answer!r}, not {wanted!r}\n")
    found = surprise(engine, of)
    rows["Perplexity"] = Row(found.nats, found.tokens, "perplexity")
    return rows


def _stories(engine: Engine, of: range) -> Rows:
    texts = [sampled_story(engine, number) for number in of]
    strange = list(filter(None, map(scoring.non_words, texts)))
    odd = list(filter(None, map(scoring.odd_sentences, texts)))
    if strange or odd:
        sys.stderr.write(f"no words: {strange}\nodd sentences: {odd}\n")
    return {
        f"{_STORIES} with a word that is none": Row(len(strange), len(texts), "number"),
        f"{_STORIES} with a sentence unlike the corpus's": Row(len(odd), len(texts), "number"),
    }


def shared(model: Path, count: int, processes: int, shown: int) -> Rows:
    """The same by several processes of one thread each."""
    command = [sys.executable, "-m", "training.evaluate", str(model), "--shown", str(shown)]
    running = [
        subprocess.Popen(
            [*command, "--count", str(count), "--part", f"{part}/{processes}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for part in range(processes)
    ]
    rows: Rows = {}
    for one in running:
        output, _ = one.communicate()
        if one.returncode:
            raise SystemExit(one.returncode)
        for title, (total, number, form) in json.loads(output).items():
            row = rows.setdefault(title, Row(0, 0, form))
            row.total += total
            row.count += number
    return rows


def table(rows: Rows) -> str:
    """The rows as markdown."""
    lines = ["| held-out prompts | score |", "| --- | --- |"]
    lines += [f"| {title} | {_FORMS[row.form](row)} |" for title, row in rows.items()]
    return "\n".join(lines) + "\n"


def _arguments() -> Any:  # noqa: ANN401 (a namespace has no type of its own)
    parser = argparse.ArgumentParser(prog="training.evaluate", description="Score a model file.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=200, help="prompts of each kind")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--shown", type=int, default=3, help="wrong answers to show of each kind")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Evaluate as the command line says."""
    given = _arguments()
    if given.part is None:
        rows = shared(given.model, given.count, given.processes, given.shown)
        sys.stdout.write(table(rows))
        return
    part, parts = map(int, given.part.split("/"))
    with opened(given.model) as engine:
        rows = measured(engine, range(part, given.count, parts), given.shown)
    sys.stdout.write(json.dumps({title: astuple(row) for title, row in rows.items()}))


if __name__ == "__main__":
    main()
