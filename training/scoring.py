"""What counts as right: answers judged by what they say, without a model."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from training.corpus import stories, words
from training.corpus.document import Conversation
from training.corpus.draw import Draw

_WORD = re.compile(r"[A-Za-z]+")
_SENTENCE = re.compile(r'[^\s.!?][^.!?]*[.!?]+"?|\S[^.!?]*$')
_CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)
_KNOWN_STORIES = 4000
"""Enough that every word and every form of a sentence occurs among them many times."""

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "boolean": bool, "array": list, "object": dict,
}  # fmt: skip

_KINDS = {
    **dict.fromkeys(words.NAMES, "NAME"),
    **dict.fromkeys(words.PLACES, "PLACE"),
    **dict.fromkeys(words.ANIMALS + words.THINGS + words.FOODS + stories.SKILLS, "NOUN"),
    **dict.fromkeys(words.COLOURS + words.SIZES + words.FEELINGS, "ADJECTIVE"),
}
"""What may stand in each other's place in a sentence."""

_AT = re.compile("|".join(words.at(place) for place in words.PLACES), re.IGNORECASE)


@cache
def _known() -> tuple[frozenset[str], frozenset[str]]:
    """The words of the corpus's stories and of their world, and the forms of their sentences."""
    found: set[str] = set()
    forms: set[str] = set()
    for number in range(_KNOWN_STORIES):
        text = stories.story(Draw(f"known/{number}")).text
        found.update(_WORD.findall(text.lower()))
        forms.update(map(form, sentences(text)))
    world = " ".join((*words.CITIES, *words.JOBS, *words.DRINKS))
    found.update(_WORD.findall(world.lower()))
    return frozenset(found), frozenset(forms)


def non_words(text: str) -> list[str]:
    """Words of a text that neither the stories of the corpus have nor the world they are set in."""
    return [word for word in _WORD.findall(text.lower()) if word not in _known()[0]]


def odd_sentences(text: str) -> list[str]:
    """Sentences of a text that no story of the corpus has, whatever it is about."""
    return [one for one in sentences(text) if form(one) not in _known()[1]]


def sentences(text: str) -> list[str]:
    """A text in sentences; what is left open at its end is one too."""
    return _SENTENCE.findall(text)


def form(sentence: str) -> str:
    """A sentence with the kind of each word that others may replace.

    What replaces them must fit: "an" and "a", and "on", "in" and "at" before a place, only count
    as the same where each is right.
    """
    text = _AT.sub(lambda found: "At PLACE" if found[0][0].isupper() else "at PLACE", sentence)
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1(n) ", text)
    text = re.sub(r"\b([Aa])n (?=[aeiou])", r"\1 ", text)
    return _WORD.sub(lambda found: _KINDS.get(found[0], found[0]), text)


def spoken(answer: str) -> str:
    """An answer without its reasoning."""
    return answer.rpartition("</think>")[2].strip()


def says(answer: str, key: str) -> bool:
    """Whether an answer says the key, as whole words.

    Only good where a wrong answer would not say the key too, by repeating the question.
    """
    return re.search(rf"(?<!\w){re.escape(key)}(?!\w)", spoken(answer)) is not None


def is_same(conversation: Conversation, answer: str) -> bool:
    """Whether the answer is the corpus's own, to the letter, whatever was thought before it."""
    return bool(spoken(answer) == conversation.messages[-1]["content"])


def reasons(answer: str) -> bool:
    """Whether an answer begins by reasoning, and ends that."""
    return answer.startswith("<think>\n") and answer.count("</think>") == 1


def calls(answer: str) -> list[Any] | None:
    """The calls in an answer; None where one of them is no JSON."""
    try:
        return [json.loads(found) for found in _CALL.findall(answer)]
    except json.JSONDecodeError:
        return None


def is_right_call(conversation: Conversation, answer: str) -> bool:
    """Whether the answer makes the expected calls, with the expected arguments, in that order."""
    return bool(calls(answer) == json.loads(conversation.expected))


def parsed(answer: str) -> object:
    """The JSON value of an answer, or None."""
    try:
        value: object = json.loads(answer)
    except json.JSONDecodeError:
        return None
    return value


def fits(value: object, schema: dict[str, Any]) -> bool:
    """Whether a value fits a schema, as far as the corpus uses schemas."""
    if isinstance(value, bool) and schema["type"] != "boolean":
        return False
    if not isinstance(value, _TYPES[schema["type"]]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, list):
        return all(fits(one, schema["items"]) for one in value)
    if isinstance(value, dict):
        keys = schema["properties"]
        return set(schema["required"]) <= set(value) <= set(keys) and all(
            fits(one, keys[key]) for key, one in value.items()
        )
    return True


def schema_in(conversation: Conversation) -> dict[str, Any]:
    """The schema that a prompt holds."""
    text = next(
        one["content"] for one in conversation.prompt if '{"type": "object"' in one["content"]
    )
    found, _ = json.JSONDecoder().raw_decode(text, text.index('{"type": "object"'))
    return dict(found)
