"""What counts as right: answers judged by what they say, without a model."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from training.corpus.document import Conversation
from training.corpus.mixture import documents, words_of

_WORD = re.compile(r"[A-Za-z]+")
_CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)
_KNOWN_DOCUMENTS = 20_000
"""Enough that every word of the stories occurs among them."""

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "boolean": bool, "array": list, "object": dict,
}  # fmt: skip


@cache
def known_words() -> frozenset[str]:
    """Every word of the corpus's stories."""
    made = documents(0, _KNOWN_DOCUMENTS)
    stories = (one for one in made if one.category in ("story", "story request"))
    return frozenset(word for one in stories for word in _WORD.findall(words_of(one).lower()))


def non_words(text: str) -> list[str]:
    """Words of a text that no story of the corpus has."""
    return [word for word in _WORD.findall(text.lower()) if word not in known_words()]


def spoken(answer: str) -> str:
    """An answer without its reasoning."""
    return answer.rpartition("</think>")[2].strip()


def says(answer: str, key: str) -> bool:
    """Whether an answer says the key, as whole words."""
    return re.search(rf"(?<!\w){re.escape(key)}(?!\w)", spoken(answer)) is not None


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
