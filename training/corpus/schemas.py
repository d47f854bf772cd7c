"""JSON that fits a schema of the prompt, filled from a sentence of the prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from training.corpus import words
from training.corpus.document import Conversation, assistant, system, user
from training.corpus.draw import Draw

Schema = dict[str, Any]


@dataclass(frozen=True)
class Property:
    """A key of an object: its schema, its value, and the sentence that tells it."""

    key: str
    schema: Schema
    value: Any
    sentence: str


def _person(draw: Draw, name: str) -> list[Property]:
    """All that may be told of a person, the name first."""
    age, city, job = draw.number(3, 90), draw.one(words.CITIES), draw.one(words.JOBS)
    colour = draw.one(words.COLOURS)
    likes = [words.plural(food) for food in draw.some(words.FOODS, 2)]
    has_pet = draw.chance(0.5)
    told_pet = f"{name} has a pet." if has_pet else f"{name} has no pet."
    text = {"type": "string"}
    return [
        Property("name", text, name, ""),
        Property("age", {"type": "integer"}, age, f"{name} is {age} years old."),
        Property("city", text, city, f"{name} lives in {city}."),
        Property("job", text, job, f"{name} is {words.with_article(job)}."),
        Property("color", text, colour, f"{name} likes the color {colour}."),
        Property(
            "likes", {"type": "array", "items": text}, likes, f"{name} likes {words.listed(likes)}."
        ),
        Property("has_pet", {"type": "boolean"}, has_pet, told_pet),
    ]


def _item(draw: Draw) -> list[Property]:
    """All that may be told of a thing, its name first."""
    thing, colour = draw.one(words.THINGS), draw.one(words.COLOURS)
    price, count = draw.number(1, 99), draw.number(1, 20)
    is_new = draw.chance(0.5)
    text = {"type": "string"}
    shades = draw.some([colour, *draw.some([c for c in words.COLOURS if c != colour], 2)], 3)
    return [
        Property("item", text, thing, ""),
        Property("color", {"type": "string", "enum": shades}, colour, f"The {thing} is {colour}."),
        Property("price", {"type": "integer"}, price, f"The {thing} costs {price} coins."),
        Property(
            "count",
            {"type": "integer"},
            count,
            f"There {'is' if count == 1 else 'are'} {count} in the shop.",
        ),
        Property(
            "is_new", {"type": "boolean"}, is_new, f"The {thing} is {'new' if is_new else 'old'}."
        ),
    ]


def _chosen(draw: Draw) -> tuple[list[Property], str]:
    """Some properties of a person or thing, and the text that tells them."""
    if draw.chance(0.6):
        name = draw.one(words.NAMES)
        every = _person(draw, name)
        opening = "" if draw.chance(0.5) else f"This is {name}. "
    else:
        every = _item(draw)
        opening = f"I see a {every[0].value}. "
    rest = draw.some(every[1:], draw.number(1, 3))
    return [every[0], *rest], opening + " ".join(one.sentence for one in rest)


def schema_of(properties: list[Property]) -> Schema:
    """The schema of an object with exactly these keys."""
    return {
        "type": "object",
        "properties": {one.key: one.schema for one in properties},
        "required": [one.key for one in properties],
    }


def structured(draw: Draw) -> Conversation:
    """A text, a schema, and the object; values and keys together lie on the draw's side."""
    chosen, text = draw.fresh(
        lambda: _chosen(draw), lambda made: tuple(f"{one.key}={one.value}" for one in made[0])
    )
    schema = json.dumps(schema_of(chosen))
    answer = json.dumps({one.key: one.value for one in chosen})
    telling = draw.one(
        (
            "Reply with JSON that fits this schema: {}",
            "Answer with JSON that matches this schema: {}",
            "Return JSON for this schema: {}",
        )
    ).format(schema)
    if draw.chance(0.5):
        messages = [system(telling), user(text)]
    else:
        messages = [user(draw.one((f"{text}\n{telling}", f"{telling}\n{text}")))]
    return Conversation("json", [*messages, assistant(answer)], answer)
