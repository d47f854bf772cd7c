"""The exams: the corpus's own answers pass them, answers to other prompts do not."""

from __future__ import annotations

import pytest

from training import scoring
from training.corpus import stories
from training.corpus.document import END, Conversation, prompt_text, template
from training.corpus.draw import Draw
from training.exams import COMPARISONS, EXAMS, FACTS, NO_CALLS, SMALL_SUMS, Exam

PROMPTS = range(200)


def own_answer(asked: Conversation) -> str:
    """What the corpus answers, as the model would write it."""
    whole = template().render(asked.messages, asked.tools or None, add_generation_prompt=False)
    return whole.removeprefix(prompt_text(asked)).removesuffix(f"{END}\n")


@pytest.mark.parametrize("exam", EXAMS, ids=lambda exam: exam.title)
def test_the_corpus_passes_its_own_exams(exam: Exam) -> None:
    asked = [exam.prompt(number) for number in PROMPTS if exam.prompt(number).may_think]
    assert [one for one in asked if not exam.judge(one, own_answer(one))] == []


@pytest.mark.parametrize(
    "exam", [exam for exam in EXAMS if exam is not NO_CALLS], ids=lambda exam: exam.title
)
def test_the_answer_to_another_prompt_does_not_pass(exam: Exam) -> None:
    asked = [exam.prompt(number) for number in PROMPTS]
    wrong = zip(asked, [*asked[1:], asked[0]], strict=True)
    judged = [exam.judge(one, own_answer(other)) for one, other in wrong if one != other]
    assert sum(judged) < 0.2 * len(judged)


def test_a_number_of_the_question_is_no_right_answer() -> None:
    asked = SMALL_SUMS.prompt(0)
    assert not SMALL_SUMS.judge(asked, asked.prompt[-1]["content"])
    wrong = COMPARISONS.prompt(0)
    smaller, _, larger = wrong.messages[-1]["content"].rstrip(".").partition(" is ")
    a, b = smaller, larger.split()[-1]
    assert not COMPARISONS.judge(wrong, wrong.messages[-1]["content"].replace(a, b))


def test_an_exam_asks_the_same_every_time_and_never_twice_the_same_thing() -> None:
    assert FACTS.prompt(5) == FACTS.prompt(5) != FACTS.prompt(6)


def test_stories_are_made_of_known_words_and_sentences() -> None:
    for number in range(300):
        text = stories.story(Draw(f"new/{number}", held_out=True)).text
        assert scoring.non_words(text) == []
        assert scoring.odd_sentences(text) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "He was very kite.",
        "In the hill he saw a small fox.",
        "In the park he saw a old fox.",
        "In the park he saw an red fox.",
        "in the park he saw a red fox.",
        "It was a good day",
        "It was good day.",
        "it was a good day.",
    ],
)
def test_a_sentence_that_is_not_well_formed_is_seen(wrong: str) -> None:
    text = f"In the park he saw an old fox. {wrong}"
    assert scoring.odd_sentences(text) == [wrong]
