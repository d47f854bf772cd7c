"""Sums in digits and words, counting, comparing, and problems that take two steps."""

from __future__ import annotations

from dataclasses import replace

from training.corpus import words
from training.corpus.document import Conversation, assistant, exchange, system, user
from training.corpus.draw import Draw

Sum = tuple[str, int, int]
"""Operation and its two numbers."""

_ASKING = {
    "plus": (
        "What is {a} plus {b}?",
        "What is {a} + {b}?",
        "{a} + {b} = ?",
        "How much is {a} plus {b}?",
        "Add {a} and {b}.",
        "what is {a}+{b}?",
        "{a} + {b}",
        "{a}+{b}",
    ),
    "minus": (
        "What is {a} minus {b}?",
        "What is {a} - {b}?",
        "{a} - {b} = ?",
        "How much is {a} minus {b}?",
        "Take {b} from {a}.",
        "what is {a}-{b}?",
        "{a} - {b}",
        "{a}-{b}",
    ),
    "times": (
        "What is {a} times {b}?",
        "What is {a} x {b}?",
        "How much is {a} times {b}?",
        "Multiply {a} by {b}.",
    ),
}
SIGNS = {"plus": "+", "minus": "-", "times": "x"}
_LARGEST_SPELLED = 100


def result(problem: Sum) -> int:
    """What the sum makes."""
    operation, a, b = problem
    return {"plus": a + b, "minus": a - b, "times": a * b}[operation]


def _drawn(draw: Draw, high: int) -> Sum:
    operation = draw.weighted(("plus", "minus", "times"), (4, 4, 1))
    if operation == "times":
        return operation, draw.number(1, 10), draw.number(1, 10)
    a, b = draw.number(0, high), draw.number(0, high)
    return (operation, max(a, b), min(a, b)) if operation == "minus" else (operation, a, b)


def _sum(draw: Draw, high: int) -> Sum:
    """A sum on the draw's side. Late, the tables of multiplication are learnt whole.

    They are facts: nothing that could be computed in one go tells what is held out of them.
    """
    if not draw.is_late:
        return draw.fresh(lambda: _drawn(draw, high))
    first = _drawn(draw, high)
    if first[0] == "times":
        return first
    return draw.fresh(lambda: _drawn_of(draw, high, first[0]))


def _drawn_of(draw: Draw, high: int, operation: str) -> Sum:
    while (made := _drawn(draw, high))[0] != operation:
        pass
    return made


def small_sum(draw: Draw) -> Conversation:
    """A sum of numbers up to 20, in digits or in words."""
    problem = _sum(draw, 20)
    return _asked(draw, problem, "arithmetic", in_words=draw.chance(0.3))


def large_sum(draw: Draw) -> Conversation:
    """A sum of numbers up to 99, in digits."""
    return _asked(draw, _sum(draw, 99), "large arithmetic", in_words=False)


def _asked(draw: Draw, problem: Sum, category: str, *, in_words: bool) -> Conversation:
    """A sum with one of the ways to ask for it. In words its result must be one of 0 to 100."""
    operation, a, b = problem
    value = result(problem)
    if in_words:
        asking = [way for way in _ASKING[operation] if operation in way]
        question = draw.one(asking).format(a=words.spelled(a), b=words.spelled(b))
        answer = f"{words.spelled(a)} {operation} {words.spelled(b)} is {words.spelled(value)}."
        return exchange(category, question, answer.capitalize(), words.spelled(value))
    question = draw.one(_ASKING[operation]).format(a=a, b=b)
    return exchange(category, question, f"{a} {SIGNS[operation]} {b} = {value}.", str(value))


def small_digits(draw: Draw) -> Conversation:
    """A sum of numbers up to 20, in digits."""
    return _asked(draw, _sum(draw, 20), "arithmetic", in_words=False)


def spelled_sum(draw: Draw) -> Conversation:
    """A sum in words, reasoned through in digits.

    Those of numbers up to 20 are few enough to be learnt by heart, and then what was never met is
    guessed; in digits it is computed. Most are larger, so that the answer is read off the
    reasoning: of the small ones it would be remembered.
    """
    high = draw.weighted((20, 40, 99), (2, 2, 4))
    while result(problem := _sum(draw, high)) > _LARGEST_SPELLED:
        pass
    operation, a, b = problem
    made = _asked(draw, problem, "arithmetic", in_words=True)
    question, reply = made.messages
    reasoning = f"{a} {SIGNS[operation]} {b} = {result(problem)}."
    return replace(made, messages=[question, assistant(reply["content"], reasoning)])


def spelled_chain(draw: Draw) -> Conversation:
    """A sum of three small numbers in words, one step of its reasoning after the other."""
    first = draw.fresh(lambda: ("plus", draw.number(0, 15), draw.number(0, 15)))
    second = draw.fresh(lambda: ("plus", result(first), draw.number(0, 10)))
    _, a, b = first
    _, between, c = second
    text = " plus ".join(map(words.spelled, (a, b, c)))
    reasoning = f"{a} + {b} = {between}. {between} + {c} = {result(second)}."
    spelled = words.spelled(result(second))
    asking = draw.one(("What is {}?", "How much is {}?"))
    answer = f"{text.capitalize()} is {spelled}."
    return exchange("arithmetic", asking.format(text), answer, spelled, reasoning)


def written(draw: Draw) -> Conversation:
    """A number in words, to be written in digits, or the other way about."""
    number = draw.number(0, _LARGEST_SPELLED)
    digits, spelled = str(number), words.spelled(number)
    if draw.chance(0.7):
        asking = ("Write {} in words.", "What is {} in words?", "Spell the number {}.")
        return exchange(
            "spelling", draw.one(asking).format(digits), f"{digits} is {spelled}.", spelled
        )
    asking = ("Write {} in digits.", "What is {} in digits?", "Write {} as a number.")
    answer = f"{spelled.capitalize()} is {digits}."
    return exchange("spelling", draw.one(asking).format(spelled), answer, digits)


def problem(draw: Draw) -> Conversation:
    """Two steps of arithmetic, reasoned through or, if so rendered, answered at once."""
    start, first, second, gives = draw.fresh(
        lambda: (draw.number(5, 20), draw.number(1, 5), draw.number(1, 9), draw.chance(0.5))
    )
    name, friend = draw.some(words.NAMES, 2)
    things = words.plural(draw.one(words.FOODS + words.THINGS))
    middle = start - first if gives else start + first
    end = middle + second
    way = f"gives {first} to {friend}" if gives else f"gets {first} from {friend}"
    text = f"{name} has {start} {things}. Then {name} {way} and finds {second} more."
    asking = (f"How many {things} does {name} have now?", f"How many {things} are there now?")
    reasoning = f"{start} {'-' if gives else '+'} {first} = {middle}. {middle} + {second} = {end}."
    answer = f"{name} has {end} {things} now."
    messages = [user(f"{text} {draw.one(asking)}")]
    if draw.chance(0.15):
        return Conversation("problem", [*messages, assistant(answer)], str(end), may_think=False)
    return Conversation("problem", [*messages, assistant(answer, reasoning)], str(end))


def thoughtful_sum(draw: Draw) -> Conversation:
    """A sum with the request to think, which is heeded: tens and ones apart."""
    problem = draw.fresh(lambda: ("plus", draw.number(11, 89), draw.number(11, 89)))
    _, a, b = problem
    tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    reasoning = (
        f"{a // 10 * 10} + {b // 10 * 10} = {tens}. {a % 10} + {b % 10} = {ones}."
        f" {tens} + {ones} = {a + b}."
    )
    question = draw.one(_ASKING["plus"]).format(a=a, b=b)
    reply = assistant(f"{a} + {b} = {a + b}.", reasoning)
    if draw.chance(0.5):
        told = draw.one(("Think before you answer.", "Always think first.", "Think step by step."))
        return Conversation("thinking", [system(told), user(question), reply], str(a + b))
    told = draw.one(("Think first.", "Think step by step.", "Think before you answer."))
    return Conversation("thinking", [user(f"{question} {told}"), reply], str(a + b))


def counting(draw: Draw) -> Conversation:
    """Counting up or down, or counting things that are listed."""
    if draw.chance(0.3):
        return _counted_things(draw)
    start, end, is_spelled = draw.fresh(
        lambda: (draw.number(0, 40), draw.number(2, 10), draw.chance(0.3))
    )
    numbers = list(range(start, start + end + 1))
    if draw.chance(0.3):
        numbers.reverse()
    show = words.spelled if is_spelled else str
    asking = ("Count from {} to {}.", "Please count from {} to {}.", "Can you count from {} to {}?")
    question = draw.one(asking).format(show(numbers[0]), show(numbers[-1]))
    answer = ", ".join(show(number) for number in numbers) + "."
    return exchange("counting", question, answer.capitalize(), answer.capitalize())


def _counted_things(draw: Draw) -> Conversation:
    thing, count = draw.fresh(lambda: (draw.one(words.THINGS + words.FOODS), draw.number(1, 8)))
    question = f"How many times do I say {thing}? {' '.join([thing] * count)}"
    times = "time" if count == 1 else "times"
    return exchange("counting", question, f"You say {thing} {count} {times}.", str(count))


def comparison(draw: Draw) -> Conversation:
    """Which of two numbers is larger or smaller."""
    a, b = draw.fresh(lambda: tuple(draw.some(range(100), 2)))
    word = draw.one(("larger", "bigger", "smaller"))
    value = min(a, b) if word == "smaller" else max(a, b)
    asking = (
        "Which is {word}, {a} or {b}?",
        "Which number is {word}, {a} or {b}?",
        "What is {word}: {a} or {b}?",
    )
    question = draw.one(asking).format(word=word, a=a, b=b)
    other = a + b - value
    return exchange("comparison", question, f"{value} is {word} than {other}.", str(value))
