"""The arguments of calls in every notation that models write, as JSON text.

What is JSON already stays as it was written, character by character. All of these are pure
functions of a complete piece of text and raise MismatchError for what they cannot read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import NoReturn

from samovar.chat.messages import Json, sound_text
from samovar.chat.notations import PythonText
from samovar.chat.reader import MismatchError

NAME_KEYS = ("name", "tool_name", "function_name", "function", "tool")
ARGUMENT_KEYS = ("arguments", "parameters", "args")
ENVELOPE_KEYS = (*NAME_KEYS, *ARGUMENT_KEYS, "id", "type", "tool_call_id")
"""What a JSON object that may be a call begins with."""

Named = tuple[str, str]
"""The name of a tool, and its arguments as JSON text."""


# ---- JSON ----------------------------------------------------------------------------------------


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant)
_LENIENT = json.JSONDecoder(parse_constant=_refuse_constant, strict=False)
_BLANK = re.compile(r"[ \t\r\n]*")


def loads(text: str) -> Json:
    """A JSON value; blanks around it are no part of it."""
    value, end = _value(text, _past(text, 0))
    if _past(text, end) != len(text):
        raise MismatchError
    return value


def dumps(value: Json) -> str:
    """JSON text, as templates write it, without halves of surrogate pairs."""
    return sound_text(json.dumps(value, ensure_ascii=False))


def object_text(text: str) -> str:
    """The text of a JSON object, as it was written where that was right.

    Line breaks within a text, which JSON wants escaped, are escaped.
    """
    text = text.strip()
    if not isinstance(loads(text), dict):
        raise MismatchError
    try:
        json.loads(text)
    except ValueError:
        return dumps(loads(text))
    return text


def _value(text: str, at: int) -> tuple[Json, int]:
    for decoder in (_STRICT, _LENIENT):
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            continue
        return value, end
    raise MismatchError


def _past(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return at if match is None else match.end()


def _members(text: str) -> dict[str, str]:
    """The members of a JSON object, each value as it is written."""
    members: dict[str, str] = {}
    at = _past(text, 0) + 1
    while text[(at := _past(text, at)) : at + 1] != "}":
        key, at = _value(text, at)
        at = _past(text, at)
        if not isinstance(key, str) or text[at : at + 1] != ":":
            raise MismatchError
        start = _past(text, at + 1)
        _, at = _value(text, start)
        members[key] = text[start:at]
        at = _past(text, at)
        if text[at : at + 1] == ",":
            at += 1
    return members


def _items(text: str) -> Iterator[str]:
    """The items of a JSON array, each as it is written."""
    at = _past(text, 0) + 1
    while text[(at := _past(text, at)) : at + 1] != "]":
        start = at
        _, at = _value(text, start)
        yield text[start:at]
        at = _past(text, at)
        if text[at : at + 1] == ",":
            at += 1


def enveloped(text: str, names: Mapping[str, Json]) -> list[Named]:
    """The calls in a JSON object that is one, or in a JSON array of such objects."""
    value = loads(text)
    if isinstance(value, list):
        if not value:
            raise MismatchError
        return [_envelope(item, names) for item in _items(text)]
    return [_envelope(text, names)]


def _envelope(text: str, names: Mapping[str, Json]) -> Named:
    if not isinstance(loads(text), dict):
        raise MismatchError
    members = _members(text)
    if members.get("function", "").startswith("{"):  # as OpenAI's clients know it
        members = _members(members["function"])
    if len(members) == 1:  # {"name": {...arguments...}}
        name, body = next(iter(members.items()))
        if name in names and body.startswith("{"):
            return name, object_text(body)
    for key in NAME_KEYS:
        name = loads(members.get(key, "null"))
        if isinstance(name, str):
            break
    else:
        raise MismatchError
    if name not in names:
        raise MismatchError
    return name, _enveloped_arguments(members)


def _enveloped_arguments(members: Mapping[str, str]) -> str:
    body = next((members[key] for key in ARGUMENT_KEYS if key in members), "null")
    if body == "null":
        return "{}"
    if body.startswith('"'):  # JSON within JSON, as OpenAI's clients know it
        body = loads(body) or "{}"
    return object_text(body)


# ---- text between tags ---------------------------------------------------------------------------


def tagged_text(text: str, schema: Json, root: Json) -> str:
    """A value that was written without saying of which type it is, by the schema of its place.

    A text stays a text wherever the schema allows one; without a schema it is JSON if it reads so.
    """
    types = schema_types(schema, root)
    if "string" in types and not (text == "null" and "null" in types):
        return dumps(text)
    for read in (_as_json, _as_python):
        try:
            return read(text.strip())
        except MismatchError:
            continue
    return dumps(text)


def json_or_text(text: str) -> str:
    """A value that was said to be JSON, or the text that it is."""
    try:
        return _as_json(text.strip())
    except MismatchError:
        return dumps(text)


def _as_json(text: str) -> str:
    value = loads(text)
    try:
        json.loads(text)
    except ValueError:
        return dumps(value)
    return text


def _as_python(text: str) -> str:
    """Templates print True, None and lists the way Python does."""
    value, end = PythonText(text).value(0, 0)
    if end != len(text):
        raise MismatchError
    return dumps(value)


def schema_types(schema: Json, root: Json) -> frozenset[str]:
    """The JSON types that a schema allows, as far as it says; none: it does not say.

    `root` is the schema in whose definitions references lead.
    """
    return _types(schema, root, set())


def _types(schema: Json, root: Json, seen: set[str]) -> frozenset[str]:
    if not isinstance(schema, dict):
        return frozenset()
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference in seen:  # once is enough, and schemas come from strangers
            return frozenset()
        seen.add(reference)
        return _types(_referred(reference, root), root, seen)
    told = schema.get("type")
    if isinstance(told, str):
        return frozenset({told})
    if isinstance(told, list):
        return frozenset(one for one in told if isinstance(one, str))
    constants = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(constants, list):
        return frozenset(map(_type_of, constants))
    for key, name in (("properties", "object"), ("items", "array")):
        if key in schema:
            return frozenset({name})
    options = (schema.get(key) for key in ("anyOf", "oneOf", "allOf"))
    each = [one for some in options if isinstance(some, list) for one in some]
    return frozenset().union(*(_types(one, root, seen) for one in each))


def _referred(reference: str, root: Json) -> Json:
    if not reference.startswith("#"):
        return None
    found = root
    for step in reference[1:].split("/")[1:]:
        if not isinstance(found, dict):
            return None
        found = found.get(step.replace("~1", "/").replace("~0", "~"))
    return found


def _type_of(value: Json) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", str: "string", int: "integer", float: "number", list: "array"}
    return names.get(type(value), "object")
