"""Sums, problems, counting and the writing of numbers: right, and none that is held out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

import pytest

from tests.training.conftest import both_sides, conversations, exchanges, made
from training import scoring
from training.corpus import mixture, numbers, words
from training.corpus.document import Document
from training.corpus.draw import Draw, is_held_out

_NUMBERS = {words.spelled(number): number for number in range(101)}
_NUMBER = "|".join(sorted(_NUMBERS, key=len, reverse=True))
_SUM_IN_WORDS = re.compile(rf"({_NUMBER}) (plus|minus|times) ({_NUMBER}) is ({_NUMBER})\.")
_STEP = re.compile(r"(\d+) \+ (\d+) = (\d+)\.")


def _sums(documents: Iterable[Document]) -> set[tuple[str, str, str]]:
    found = (
        re.match(r"(\d+) ([+x-]) (\d+) = ", answer)
        for question, answer in exchanges(documents)
        if not re.search("call|tool|think", question)
    )
    return {(one[1], one[2], one[3]) for one in found if one}


def _sums_in_words(documents: Iterable[Document]) -> set[tuple[str, int, int, int]]:
    """Operation, its two numbers and what is said that it makes."""
    found = (_SUM_IN_WORDS.match(answer.lower()) for _, answer in exchanges(documents))
    return {(one[2], *(_NUMBERS[one[at]] for at in (1, 3, 4))) for one in found if one}


# ---- what is held out ----------------------------------------------------------------------------


def test_no_held_out_sum_is_trained_on() -> None:
    signs = {sign: name for name, sign in numbers.SIGNS.items()}
    plain = [one for one in made() if one.category in ("arithmetic", "large arithmetic", "chat")]
    assert not [s for s in _sums(plain) if is_held_out((signs[s[1]], int(s[0]), int(s[2])))]
    tested = [one for one in made(held_out=True) if "arithmetic" in one.category]
    sums = [s for s in _sums(tested) if s[1] != "x"]  # the tables are learnt whole
    assert sums
    assert all(is_held_out((signs[s[1]], int(s[0]), int(s[2]))) for s in sums)


@pytest.mark.parametrize("first", mixture.BEGINNINGS[1:])
def test_no_later_part_has_a_held_out_sum(first: int) -> None:
    documents = [mixture.document(1, first + number) for number in range(1500)]
    signs = {sign: name for name, sign in numbers.SIGNS.items()}
    plain = [one for one in documents if one.category in ("arithmetic", "large arithmetic")]
    sums = [s for s in _sums(plain) if s[1] != "x"]
    assert sums
    assert not [s for s in sums if is_held_out((signs[s[1]], int(s[0]), int(s[2])))]
    in_words = [one[:3] for one in _sums_in_words(documents) if one[0] != "times"]
    assert in_words
    assert not [one for one in in_words if is_held_out(one)]


# ---- right answers -------------------------------------------------------------------------------


def test_every_sum_is_right() -> None:
    checked = 0
    for _, answer in exchanges(both_sides()):
        if found := re.match(r"(?:Well, )?(\d+) ([+x-]) (\d+) = (-?\d+)", answer):
            checked += 1
            a, b, value = int(found[1]), int(found[3]), int(found[4])
            assert value == {"+": a + b, "-": a - b, "x": a * b}[found[2]]
    assert checked > 200


def test_every_sum_in_words_is_right() -> None:
    last = [mixture.document(1, mixture.BEGINNINGS[-1] + number) for number in range(1500)]
    sums = _sums_in_words([*both_sides(), *last])
    assert len(sums) > 200
    assert all(numbers.result((operation, a, b)) == value for operation, a, b, value in sums)


def test_every_line_of_reasoning_adds_up_to_the_answer() -> None:
    checked = 0
    for one in conversations(both_sides()):
        reasoning = one.messages[-1].get("reasoning_content")
        if not reasoning:
            continue
        checked += 1
        lines = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.", reasoning)
        assert reasoning.count("=") == len(lines)
        for a, sign, b, value in lines:
            assert int(value) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
        assert scoring.says(one.messages[-1]["content"], lines[-1][3])
    assert checked > 100


def test_problems_come_out_as_their_story_says() -> None:
    for number in range(200):
        one = numbers.problem(Draw(str(number)))
        found = re.search(
            r"has (\d+) .* (gives|gets) (\d+) .*finds (\d+)", one.messages[0]["content"]
        )
        assert found
        change = -int(found[3]) if found[2] == "gives" else int(found[3])
        assert int(one.expected) == int(found[1]) + change + int(found[4])


def test_counting_counts_every_number_once() -> None:
    for number in range(200):
        one = numbers.counting(Draw(str(number)))
        question, answer = (message["content"] for message in one.messages)
        if question.startswith("How many"):
            said = question.partition("? ")[2].split()
            assert len(set(said)) == 1
            assert one.expected == str(len(said))
        elif digits := [int(found) for found in re.findall(r"\d+", answer)]:
            assert {abs(a - b) for a, b in pairwise(digits)} == {1}
            assert [digits[0], digits[-1]] == [int(found) for found in re.findall(r"\d+", question)]


def test_sums_in_words_are_reasoned_through_in_digits() -> None:
    for number in range(300):
        one = numbers.spelled_sum(Draw(str(number), is_late=True))
        ((operation, a, b, value),) = _sums_in_words([one])
        sign = numbers.SIGNS[operation]
        assert one.messages[-1]["reasoning_content"] == f"{a} {sign} {b} = {value}."


def test_no_step_of_a_spelled_chain_is_held_out() -> None:
    for number in range(300):
        one = numbers.spelled_chain(Draw(str(number), is_late=True))
        reasoning = one.messages[-1]["reasoning_content"]
        steps = [tuple(map(int, found)) for found in _STEP.findall(reasoning)]
        (_, _, between), (again, _, value) = steps
        assert between == again
        assert value == _NUMBERS[one.expected]
        assert all(a + b == made for a, b, made in steps)
        assert not any(is_held_out(("plus", a, b)) for a, b, _ in steps)


def test_a_number_is_written_both_ways() -> None:
    for number in range(200):
        answer = numbers.written(Draw(str(number))).messages[-1]["content"]
        first, _, second = answer.rstrip(".").lower().partition(" is ")
        digits, text = (first, second) if first.isdigit() else (second, first)
        assert _NUMBERS[text] == int(digits)
