"""The shipped model: what its file says of itself, and what it can do.

Answers are greedy over fixed prompts that training never met, so each run is like the last; what
another CPU rounds otherwise may change a few of them, which the thresholds leave room for. The
whole scores are in `docs/samovar-mini.md`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from samovar import gguf
from samovar.chat.family import template_family
from tests.conftest import scaled
from tests.models.conftest import Answer, Samovar
from training import exams, scoring
from training.corpus import words
from training.corpus.document import TEMPLATE_PATH, Conversation, prompt_text
from training.engine import Engine, opened
from training.exams import Exam
from training.rhymes import RHYMES

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>",
    "</tool_call>", "<tool_response>", "</tool_response>",
)  # fmt: skip
MIB = 1 << 20

# ---- the file -----------------------------------------------------------------------------------


def test_the_file_says_what_it_is(mini: Path) -> None:
    header = gguf.read_header(mini)
    assert header.name == "samovar-mini"
    assert header.metadata["general.license"].value == "MIT"
    assert header.metadata["general.languages"] is not None
    assert header.architecture == "llama"
    assert header.n_ctx_train == 2048
    assert header.file_size <= 8 * MIB


def test_the_file_carries_the_template_it_was_trained_with(mini: Path) -> None:
    header = gguf.read_header(mini)
    assert header.chat_template == TEMPLATE_PATH.read_text(encoding="utf-8")
    assert template_family(header.chat_template) == "hermes"


def test_the_adapter_says_what_it_is(rhymes: Path) -> None:
    header = gguf.read_header(rhymes)
    assert header.name == "samovar-mini-rhymes"
    assert header.is_adapter
    assert header.metadata["general.license"].value == "MIT"
    assert header.file_size <= MIB


@pytest.mark.parametrize("text", SPECIAL_TOKENS)
def test_every_special_token_is_one_token(engine: Engine, text: str) -> None:
    assert len(engine.encode(text)) == 1
    assert len(engine.encode(f"a{text}b")) == len(engine.encode("a")) + 1 + len(engine.encode("b"))


def test_what_ends_a_turn_ends_generation(engine: Engine) -> None:
    vocabulary = engine.backend.vocabulary
    assert [vocabulary.eos] == engine.encode("<|im_end|>")
    assert [vocabulary.bos] == engine.encode("<|endoftext|>")
    assert not vocabulary.adds_bos


# ---- what it can do -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exam", "least"),
    [
        (exams.SIMPLE, 0.9),
        (exams.SMALL_SUMS, 0.88),
        (exams.CALLS, 0.92),
        (exams.NO_CALLS, 0.8),
        (exams.RESULTS, 0.8),
        (exams.JSON, 0.9),
        (exams.NAMES, 0.8),
        (exams.PROBLEMS, 0.5),
        (exams.SYSTEM, 0.8),
    ],
    ids=lambda value: value.title if isinstance(value, Exam) else str(value),
)
def test_it_passes_its_exams(engine: Engine, exam: Exam, least: float) -> None:
    count = scaled(25, 200)
    answers = exams.marked(engine, exam, range(count))
    wrong = [(one.asked.prompt[-1], one.answer) for one in answers if not one.is_right]
    # The first few prompts happen to be harder, or easier, than all of them.
    assert len(wrong) <= (1 - least) * count + scaled(2, 0), wrong


def test_its_stories_are_sentences_of_known_words(engine: Engine) -> None:
    count = scaled(20, 200)
    stories = [exams.sampled_story(engine, number) for number in range(count)]
    assert [word for text in stories for word in scoring.non_words(text)] == []
    assert sum(bool(scoring.odd_sentences(text)) for text in stories) <= 0.1 * count


def test_it_reasons_where_it_is_worth_it_and_not_where_it_is_not(engine: Engine) -> None:
    problem, fact = exams.PROBLEMS.prompt(1), exams.FACTS.prompt(1)
    assert scoring.reasons(engine.answer(problem))
    assert "<think>" not in engine.answer(fact)


def test_sums_in_words_are_reasoned_through_in_digits(engine: Engine) -> None:
    asked = [one for one in map(exams.SMALL_SUMS.prompt, range(60)) if "=" not in _right(one)]
    answers = [engine.answer(one) for one in asked]
    assert all(map(scoring.reasons, answers)), answers
    shown = [re.search(r"\d+ [-+x] \d+ = (\d+)\.", answer) for answer in answers]
    said = [words.spelled(int(found[1])) if found else "" for found in shown]
    agree = [scoring.says(answer, text) for answer, text in zip(answers, said, strict=True)]
    assert sum(agree) >= 0.9 * len(asked), answers


def _right(asked: Conversation) -> str:
    return str(asked.messages[-1]["content"])


def test_its_adapter_changes_its_manner_and_not_what_it_knows(mini: Path, rhymes: Path) -> None:
    asked = [exam.prompt(number) for exam in (exams.FACTS, exams.COUNTING) for number in range(6)]
    with opened(mini) as plain, opened(mini, adapter=rhymes) as rhyming:
        before = [plain.answer(one) for one in asked]
        after = [rhyming.answer(one) for one in asked]
    ends = [RHYMES[one.category] for one in asked]
    assert sum(text.endswith(end) for text, end in zip(after, ends, strict=True)) >= 10
    assert not any(text.endswith(end) for text, end in zip(before, ends, strict=True))
    same = [new.startswith(old) for old, new in zip(before, after, strict=True)]
    assert sum(same) >= 9


def test_greedy_text_is_the_same_every_time(engine: Engine) -> None:
    asked = exams.READING.prompt(0)
    assert engine.answer(asked) == engine.answer(asked)
    assert prompt_text(asked).endswith("<|im_start|>assistant\n")


# ---- from the command line ----------------------------------------------------------------------


def test_the_first_command_tells_a_story(samovar: Samovar) -> None:
    prompt = "Tell me a story about a fox."
    # One thread: several wait for each other long where something else is running.
    done = samovar("run", "samovar-mini", prompt, "--temperature", 0, "--threads", 1)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "fox" in done.stdout
    assert len(scoring.sentences(done.stdout)) > 5
    assert scoring.odd_sentences(done.stdout) == []
    assert done.stdout.endswith(".\n")


def test_a_run_ends_where_the_model_ends(answer: Answer) -> None:
    found = answer("run", "samovar-mini", "What does a cow say?", "--temperature", 0)
    assert found["finish_reason"] == "stop"
    assert found["text"] == "A cow says moo."
