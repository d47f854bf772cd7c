"""Simple instructions: repeat, turn around, write in capitals, sort, pick, list."""

from __future__ import annotations

from collections.abc import Callable

from training.corpus import words
from training.corpus.document import Conversation, exchange
from training.corpus.draw import Draw

_WORDS = words.THINGS + words.FOODS + words.ANIMALS + words.COLOURS + words.PLACES
_KINDS = {
    "animals": words.ANIMALS, "colors": words.COLOURS, "fruits and foods": words.FOODS,
    "names": words.NAMES, "cities": words.CITIES, "days": words.DAYS, "toys": words.THINGS,
}  # fmt: skip

_REPEATING = (
    "Repeat after me: {}",
    "Say: {}",
    "Repeat: {}",
    "Please say this: {}",
    "Copy this: {}",
)

Task = tuple[str, str]
"""What is asked, and the answer."""


def instruction(draw: Draw) -> Conversation:
    """An instruction that is followed to the letter."""
    question, answer = draw.one(_TASKS)(draw)
    return exchange("instruction", question, answer, answer)


def _words(draw: Draw, low: int, high: int) -> list[str]:
    """Different words in an order that lies on the draw's side."""
    return list(draw.fresh(lambda: tuple(draw.some(_WORDS, draw.number(low, high)))))


def _repeat(draw: Draw) -> Task:
    text = " ".join(_words(draw, 1, 5))
    return draw.one(_REPEATING).format(text), text


def _sentence(draw: Draw) -> Task:
    name, thing, place = draw.fresh(
        lambda: (draw.one(words.NAMES), draw.one(words.THINGS), draw.one(words.PLACES))
    )
    text = f"{name} sees a {thing} {words.at(place)}."
    return draw.one(("Repeat after me: {}", "Copy this: {}", "Say: {}")).format(text), text


def _often(draw: Draw) -> Task:
    word, times = draw.fresh(lambda: (draw.one(_WORDS), draw.number(2, 6)))
    count = draw.one((str(times), words.spelled(times)))
    asking = (
        "Say {word} {count} times.",
        "Write the word {word} {count} times.",
        "Repeat {word} {count} times.",
    )
    return draw.one(asking).format(word=word, count=count), " ".join([word] * times)


def _capitals(draw: Draw) -> Task:
    text = " ".join(_words(draw, 1, 3))
    asking = ("Write in capitals: {}", "Write this in capital letters: {}", "Say it loud: {}")
    return draw.one(asking).format(text), text.upper()


def _backwards(draw: Draw) -> Task:
    given = _words(draw, 2, 5)
    asking = (
        "Say these words backwards: {}",
        "Turn the order around: {}",
        "Write these words in reverse order: {}",
    )
    return draw.one(asking).format(" ".join(given)), " ".join(given[::-1])


def _pick(draw: Draw) -> Task:
    given = _words(draw, 3, 5)
    which, at = draw.one((("first", 0), ("last", -1), ("second", 1), ("third", 2)))
    asking = (
        "What is the {which} word? {text}",
        "Which word is {which}? {text}",
        "Give me the {which} word of: {text}",
    )
    return draw.one(asking).format(which=which, text=" ".join(given)), given[at]


def _sort(draw: Draw) -> Task:
    numbers = draw.fresh(lambda: tuple(draw.some(range(1, 40), draw.number(2, 4))))
    asking = ("Sort these numbers: {}", "Put these numbers in order: {}")
    given = ", ".join(str(number) for number in numbers)
    return draw.one(asking).format(given), ", ".join(str(number) for number in sorted(numbers))


def _sentence_with(draw: Draw) -> Task:
    word, animal = draw.fresh(lambda: (draw.one(words.THINGS), draw.one(words.ANIMALS)))
    asking = ("Write a sentence with the words {a} and {b}.", "Make a sentence with {a} and {b}.")
    return draw.one(asking).format(a=animal, b=word), f"The {animal} sits next to the {word}."


_TASKS: tuple[Callable[[Draw], Task], ...] = (
    _repeat, _sentence, _often, _capitals, _backwards, _pick, _sort, _sentence_with,
)  # fmt: skip


def naming(draw: Draw) -> Conversation:
    """A list of so many things of a kind; any of them will do."""
    kind, options = draw.one(list(_KINDS.items()))
    count = draw.number(2, 5)
    chosen = draw.some(options, count)
    number = draw.one((str(count), words.spelled(count)))
    asking = ("Name {n} {kind}.", "List {n} {kind}.", "Tell me {n} {kind}.", "Give me {n} {kind}.")
    question = draw.one(asking).format(n=number, kind=kind)
    if draw.chance(0.3):
        answer = "\n".join(f"{at}. {item}" for at, item in enumerate(chosen, start=1))
        return exchange("naming", f"{question} Number them.", answer)
    text = words.listed(chosen)
    return exchange("naming", question, f"{text[0].upper()}{text[1:]}.")


def copying(draw: Draw) -> Conversation:
    """A long row of words, names and numbers, to be repeated.

    Every word of the answer stands in the prompt after the word before it: from this a model
    learns soonest to look things up in its context, which most other kinds need.
    """
    options = (*_WORDS, *words.NAMES, *words.CITIES, *map(str, range(100)))
    given = draw.fresh(lambda: tuple(draw.some(options, draw.number(6, 24))))
    text = " ".join(given)
    return exchange("copying", draw.one(_REPEATING).format(text), text, text)
