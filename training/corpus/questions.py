"""Questions about a short text, and about the few facts of the small world."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from training.corpus import words
from training.corpus.document import Conversation, exchange
from training.corpus.draw import Draw

Fact = tuple[str, str, str]
"""Question, answer, and the answer's key word."""


def fact(draw: Draw) -> Conversation:
    """Something that is always true; a fact in one of its phrasings is on the draw's side."""
    question, answer, key = draw.fresh(lambda: draw.one(_FACTS)(draw))
    return exchange("question", question, answer, key)


def _opposite(draw: Draw) -> Fact:
    pair = draw.one(words.OPPOSITES)
    word, other = pair if draw.chance(0.5) else pair[::-1]
    asking = (
        "What is the opposite of {}?",
        "What's the opposite of {}?",
        "Tell me the opposite of {}.",
        "Which word is the opposite of {}?",
    )
    return draw.one(asking).format(word), f"The opposite of {word} is {other}.", other


def _sound(draw: Draw) -> Fact:
    animal, sound = draw.one(list(words.SOUNDS.items()))
    it = words.with_article(animal)
    asking = (
        "What does {} say?",
        "What sound does {} make?",
        "Which sound does {} make?",
        "How does {} sound?",
    )
    return draw.one(asking).format(it), f"{it.capitalize()} says {sound}.", sound


def _legs(draw: Draw) -> Fact:
    animal, number = draw.one(list(words.LEGS.items()))
    it = words.with_article(animal)
    asking = (
        "How many legs does {} have?",
        "How many legs has {}?",
        "Count the legs of {}.",
        "Tell me how many legs {} has.",
    )
    count = "no legs" if number == 0 else words.counted(number, "leg")
    return draw.one(asking).format(it), f"{it.capitalize()} has {count}.", count


def _home(draw: Draw) -> Fact:
    animal, home = draw.one(list(words.HOMES.items()))
    it = words.with_article(animal)
    asking = (
        "Where does {} live?",
        "Where does {} sleep?",
        "What is the home of {}?",
        "In what does {} live?",
    )
    return draw.one(asking).format(it), f"{it.capitalize()} lives in {home}.", home


def _baby(draw: Draw) -> Fact:
    animal, baby = draw.one(list(words.BABIES.items()))
    asking = (
        "What is a baby {} called?",
        "What do you call a young {}?",
        "What is a young {} called?",
        "What is the name for a baby {}?",
    )
    return draw.one(asking).format(animal), f"A young {animal} is called a {baby}.", baby


def _tint(draw: Draw) -> Fact:
    thing, colour = draw.one(list(words.TINTS.items()))
    asking = (
        "What color is {}?",
        "What colour is {}?",
        "Which color has {}?",
        "Tell me the color of {}.",
    )
    return draw.one(asking).format(thing), f"{thing.capitalize()} is {colour}.", colour


def _capital(draw: Draw) -> Fact:
    country, city = draw.one(list(words.CAPITALS.items()))
    asking = (
        "What is the capital of {}?",
        "Which city is the capital of {}?",
        "Name the capital of {}.",
        "What's the capital of {}?",
        "Tell me the capital of {}.",
    )
    return draw.one(asking).format(country), f"The capital of {country} is {city}.", city


def _neighbour(draw: Draw) -> Fact:
    cycle = draw.one((words.DAYS, words.MONTHS, words.SEASONS))
    what = {7: "day", 12: "month", 4: "season"}[len(cycle)]
    at = draw.number(0, len(cycle) - 1)
    step, side = draw.one(((1, "after"), (-1, "before")))
    other = cycle[(at + step) % len(cycle)]
    asking = (
        "Which {what} comes {side} {it}?",
        "What {what} comes {side} {it}?",
        "What is the {what} {side} {it}?",
    )
    question = draw.one(asking).format(what=what, side=side, it=cycle[at])
    return question, f"{other[0].upper()}{other[1:]} comes {side} {cycle[at]}.", other


def _definition(draw: Draw) -> Fact:
    kind, options = draw.one(
        (
            ("an animal", words.ANIMALS),
            ("something to eat", words.FOODS),
            ("a color", words.COLOURS),
            ("a city", words.CITIES),
            ("a country", tuple(words.CAPITALS)),
            ("a person who works", words.JOBS),
            ("a thing", words.THINGS),
            ("a day", words.DAYS),
            ("a month", words.MONTHS),
        )
    )
    it = draw.one(options)
    if it[0].islower() and options is not words.COLOURS:
        it = words.with_article(it)
    asking = ("What is {}?", "Tell me what {} is.", "What's {}?")
    return draw.one(asking).format(it), f"{it[0].upper()}{it[1:]} is {kind}.", kind


_FACTS: tuple[Callable[[Draw], Fact], ...] = (
    _opposite,
    _sound,
    _legs,
    _home,
    _baby,
    _tint,
    _capital,
    _neighbour,
    _definition,
)


def reading(draw: Draw) -> Conversation:
    """A question about one to three sentences that stand before it."""
    sentences, asked = draw.one(_READINGS)(draw)
    return _about(draw, sentences, draw.one(asked))


def _about(draw: Draw, sentences: list[str], asked: Fact) -> Conversation:
    question, answer, key = asked
    text = " ".join(sentences)
    ways = (f"{text} {question}", f"{text}\n{question}", f"{text}\n\nQuestion: {question}")
    return exchange("reading", draw.one(ways), answer, key)


def who(draw: Draw) -> Conversation:
    """The question which of several people it is, for which the text must be read backwards."""
    sentences, asked = _of_several(draw)
    return _about(draw, sentences, draw.one([one for one in asked if one[0].startswith("Who")]))


def readings(draw: Draw) -> Conversation:
    """All that can be asked about a few sentences, at once and in any order.

    To find who has what is learnt from the one word of an answer that tells it; here there are
    many of those in a document.
    """
    sentences, asked = _of_several(draw)
    chosen = draw.some(asked, draw.number(2, len(asked)))
    text = " ".join(sentences)
    question = " ".join(question for question, _, _ in chosen)
    answer = " ".join(answer for _, answer, _ in chosen)
    ways = (f"{text} {question}", f"{text}\n{question}", f"{text}\n\nQuestions: {question}")
    return exchange("readings", draw.one(ways), answer, answer)


Reading = tuple[list[str], list[Fact]]
"""Sentences, and what can be asked about them."""


def _of_several(draw: Draw) -> Reading:
    """About two people or three: of one there is nothing to confuse."""
    sentences, asked = draw.one(_READINGS)(draw)
    while len(sentences) < 2:
        sentences, asked = draw.one(_READINGS)(draw)
    return sentences, asked


def _people(draw: Draw, *kinds: Sequence[str]) -> list[list[str]]:
    """One to three people, each with one of every kind; together they are on the draw's side.

    No two share the first thing, so that it tells whose it is.
    """
    found: list[list[str]] = []
    for _ in range(draw.number(1, 3)):
        taken = {text for person in found for text in person[:2]}
        options = [[text for text in kind if text not in taken] for kind in (words.NAMES, *kinds)]
        person = draw.fresh(lambda options=options: tuple(map(draw.one, options)))  # type: ignore[misc]
        found.append(list(person))
    return found


def _owners(draw: Draw) -> Reading:
    sentences, asked = [], []
    for name, thing in _people(draw, words.THINGS):
        colour = draw.one(words.COLOURS)
        told = f"{name} has {words.with_article(colour)} {thing}."
        sentences.append(told)
        asked += [
            (
                f"What color is the {thing} of {name}?",
                f"The {thing} of {name} is {colour}.",
                colour,
            ),
            (f"What does {name} have?", told, thing),
            (f"Who has {words.with_article(colour)} {thing}?", told, name),
        ]
    return sentences, asked


def _whereabouts(draw: Draw) -> Reading:
    sentences, asked = [], []
    for name, place in _people(draw, words.PLACES):
        told = f"{name} is {words.at(place)}."
        sentences.append(draw.one((told, f"{name} went to the {place}.")))
        asked += [
            (f"Where is {name}?", told, place),
            (f"Who is {words.at(place)}?", told, name),
        ]
    return sentences, asked


def _lives(draw: Draw) -> Reading:
    sentences, asked = [], []
    for name, job, city in _people(draw, words.JOBS, words.CITIES):
        sentences.append(f"{name} is {words.with_article(job)} and lives in {city}.")
        asked += [
            (f"Where does {name} live?", f"{name} lives in {city}.", city),
            (f"What is the job of {name}?", f"{name} is {words.with_article(job)}.", job),
            (f"Who is {words.with_article(job)}?", f"{name} is {words.with_article(job)}.", name),
        ]
    return sentences, asked


def _likes(draw: Draw) -> Reading:
    sentences, asked = [], []
    for name, food, drink in _people(draw, words.FOODS, words.DRINKS):
        a_food = words.with_article(food)
        sentences.append(f"{name} eats {a_food} and drinks {drink}.")
        asked += [
            (f"What does {name} eat?", f"{name} eats {a_food}.", food),
            (f"What does {name} drink?", f"{name} drinks {drink}.", drink),
            (f"Who eats {a_food}?", f"{name} eats {a_food}.", name),
        ]
    return sentences, asked


_READINGS = (_owners, _whereabouts, _lives, _likes)

_ASKING_UNKNOWN = (
    "What is {}?",
    "Tell me about {}.",
    "Explain {} to me.",
    "What do you know about {}?",
    "Write an essay about {}.",
    "How does {} work?",
    "Can you help me with {}?",
    "Why is there {}?",
)
_NOT_KNOWN = (
    "I do not know much about {}. I am a very small model. Ask me for a story or a small sum.",
    "I am too small to know about {}. I can tell a story, count, or answer simple questions.",
)


def unknown(draw: Draw) -> Conversation:
    """Something outside of the world, and the answer that says so."""
    topic, asking = draw.fresh(lambda: (_topic(draw), draw.one(_ASKING_UNKNOWN)))
    return exchange("unknown", asking.format(topic), draw.one(_NOT_KNOWN).format(topic), topic)


def _topic(draw: Draw) -> str:
    """A real word, or one that nobody knows."""
    if draw.chance(0.6):
        return draw.one(words.UNKNOWN)
    return "".join(draw.some(words.SYLLABLES, draw.number(2, 4)))
