"""The functions that conversations may call: definition, ways to ask, result, answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from training.corpus import words
from training.corpus.draw import Draw

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Function:
    """A function and how people ask for it.

    `asking` and `answer` are formats over the arguments and the result's values; `result` draws
    what the function gives back.
    """

    name: str
    description: str
    parameters: dict[str, dict[str, Any]]
    asking: tuple[str, ...]
    arguments: Callable[[Draw], Arguments]
    result: Callable[[Draw, Arguments], Arguments]
    answer: str

    def definition(self, *, is_described: bool) -> dict[str, Any]:
        """What a caller sends of it, in the shape of OpenAI's chat completions."""
        properties = {
            key: {**schema, "description": f"The {key}."} if is_described else schema
            for key, schema in self.parameters.items()
        }
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        function = {"name": self.name, "description": self.description, "parameters": schema}
        return {"type": "function", "function": function}

    @property
    def free_texts(self) -> list[str]:
        """The parameters whose value may be any text."""
        return [key for key, schema in self.parameters.items() if schema == _TEXT]


_TEXT = {"type": "string"}
_WHOLE = {"type": "integer"}
_DONE: Callable[[Draw, Arguments], Arguments] = lambda _draw, _given: {"status": "done"}  # noqa: E731


def _sum(sign: int) -> Callable[[Draw, Arguments], Arguments]:
    return lambda _, given: {"result": given["a"] + sign * given["b"]}


def _pair(draw: Draw) -> Arguments:
    a, b = draw.number(1, 999), draw.number(1, 999)
    return {"a": max(a, b), "b": min(a, b)}


_SKIES = ("sunny", "rainy", "cloudy", "windy", "snowy")

FUNCTIONS = (
    Function(
        "get_weather",
        "Get the weather in a city.",
        {"city": _TEXT},
        (
            "What is the weather in {city}?",
            "How is the weather in {city}?",
            "Is it warm in {city}?",
            "Tell me the weather in {city}.",
            "What's the weather like in {city}?",
        ),
        lambda draw: {"city": draw.one(words.CITIES)},
        lambda draw, _: {"temperature": draw.number(-9, 35), "sky": draw.one(_SKIES)},
        "It is {sky} in {city}, at {temperature} degrees.",
    ),
    Function(
        "get_time",
        "Get the time in a city.",
        {"city": _TEXT},
        (
            "What time is it in {city}?",
            "Tell me the time in {city}.",
            "How late is it in {city}?",
            "What is the time in {city}?",
        ),
        lambda draw: {"city": draw.one(words.CITIES)},
        lambda draw, _: {"time": f"{draw.number(0, 23)}:{draw.number(10, 59)}"},
        "It is {time} in {city}.",
    ),
    Function(
        "add",
        "Add two numbers.",
        {"a": _WHOLE, "b": _WHOLE},
        (
            "What is {a} plus {b}?",
            "Add {a} and {b}.",
            "What is {a} + {b}?",
            "How much is {a} plus {b}?",
        ),
        _pair,
        _sum(1),
        "{a} + {b} = {result}.",
    ),
    Function(
        "subtract",
        "Take one number from another.",
        {"a": _WHOLE, "b": _WHOLE},
        ("What is {a} minus {b}?", "Take {b} from {a}.", "What is {a} - {b}?"),
        _pair,
        _sum(-1),
        "{a} - {b} = {result}.",
    ),
    Function(
        "set_timer",
        "Start a timer.",
        {"minutes": _WHOLE},
        (
            "Set a timer for {minutes} minutes.",
            "Start a timer of {minutes} minutes.",
            "Wake me in {minutes} minutes.",
            "Please set a timer to {minutes} minutes.",
        ),
        lambda draw: {"minutes": draw.number(2, 90)},
        _DONE,
        "The timer is set to {minutes} minutes.",
    ),
    Function(
        "send_message",
        "Send a message to a person.",
        {"to": _TEXT, "text": _TEXT},
        (
            "Tell {to}: {text}",
            "Send a message to {to}: {text}",
            "Write to {to}: {text}",
            "Send {to} this message: {text}",
        ),
        lambda draw: {
            "to": draw.one(words.NAMES),
            "text": draw.one(
                (
                    f"I am in {draw.one(words.CITIES)}.",
                    f"See you on {draw.one(words.DAYS)}!",
                    f"Bring the {draw.one(words.THINGS)}.",
                    "I am late.",
                )
            ),
        },
        _DONE,
        "I have sent the message to {to}.",
    ),
    Function(
        "play_music",
        "Play music of a kind.",
        {"kind": _TEXT},
        (
            "Play some {kind} music.",
            "I want to hear {kind} music.",
            "Please play {kind} music.",
            "Put on some {kind} music.",
        ),
        lambda draw: {"kind": draw.one(words.SONGS)},
        _DONE,
        "Now {kind} music is playing.",
    ),
    Function(
        "get_price",
        "Get the price of a thing in coins.",
        {"item": _TEXT},
        (
            "How much is a {item}?",
            "What does a {item} cost?",
            "What is the price of a {item}?",
            "Tell me the price of a {item}.",
        ),
        lambda draw: {"item": draw.one(words.THINGS)},
        lambda draw, _: {"price": draw.number(2, 99)},
        "A {item} costs {price} coins.",
    ),
    Function(
        "set_light",
        "Turn the light of a room on or off.",
        {"room": _TEXT, "state": {"type": "string", "enum": ["on", "off"]}},
        (
            "Turn {state} the light in the {room}.",
            "Turn the light in the {room} {state}.",
            "Light {state} in the {room}, please.",
            "Switch {state} the {room} light.",
        ),
        lambda draw: {"room": draw.one(words.ROOMS), "state": draw.one(("on", "off"))},
        _DONE,
        "The light in the {room} is {state}.",
    ),
    Function(
        "translate",
        "Translate a word into a language.",
        {"word": _TEXT, "language": _TEXT},
        (
            "What is {word} in {language}?",
            "Translate {word} into {language}.",
            "How do you say {word} in {language}?",
        ),
        lambda draw: {
            "word": draw.one(words.THINGS + words.ANIMALS),
            "language": draw.one(words.LANGUAGES),
        },
        lambda draw, _: {"word": "".join(draw.some(words.SYLLABLES, 3))},
        'In {language} it is "{word}".',
    ),
    Function(
        "find_person",
        "Find out where a person is.",
        {"name": _TEXT},
        (
            "Where is {name}?",
            "Find {name}.",
            "Do you know where {name} is?",
            "Where can I find {name}?",
        ),
        lambda draw: {"name": draw.one(words.NAMES)},
        lambda draw, _: {"place": words.at(draw.one(words.PLACES))},
        "{name} is {place}.",
    ),
    Function(
        "save_note",
        "Save a note.",
        {"text": _TEXT},
        ("Save a note: {text}", "Note this: {text}", "Write down: {text}", "Make a note: {text}"),
        lambda draw: {"text": f"buy {draw.number(2, 9)} {words.plural(draw.one(words.FOODS))}"},
        _DONE,
        "I have saved the note.",
    ),
)

_VERBS = (
    "open",
    "close",
    "clean",
    "find",
    "order",
    "paint",
    "fix",
    "book",
    "check",
    "count",
    "sell",
    "wash",
)
_OBJECTS = (
    "door",
    "window",
    "table",
    "bike",
    "car",
    "garden",
    "ticket",
    "room",
    "boat",
    "clock",
    "shirt",
    "pizza",
)
_DETAILS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("color", "in {color}", words.COLOURS),
    ("city", "in {city}", words.CITIES),
    ("name", "for {name}", words.NAMES),
    ("day", "on {day}", words.DAYS),
    ("number", "number {number}", tuple(range(1, 60))),
    ("room", "in the {room}", words.ROOMS),
)


def invented(draw: Draw) -> Function:
    """A function nobody has seen: calls must be read from the definition."""
    verb, thing = draw.one(_VERBS), draw.one(_OBJECTS)
    key, way, values = draw.one(_DETAILS)
    ask = f"{verb} the {thing} {way}"
    return Function(
        f"{verb}_{thing}",
        f"{verb.capitalize()} the {thing}.",
        {key: _WHOLE if key == "number" else _TEXT},
        (f"{ask[0].upper()}{ask[1:]}.", f"Please {ask}.", f"Can you {ask}?"),
        lambda inner: {key: inner.one(values)},
        _DONE,
        f"Done: {ask}.",
    )


def unusual(draw: Draw) -> str:
    """A word that is rare in the corpus, or was made up for this one time."""
    if draw.chance(0.4):
        return draw.one(words.RARE)
    return "".join(
        draw.one(words.ONSETS) + draw.one(words.VOWELS) + draw.one(words.CODAS)
        for _ in range(draw.weighted((1, 2, 3), (3, 4, 1)))
    )
