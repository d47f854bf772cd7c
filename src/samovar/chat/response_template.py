"""A family of output that a file beside a model describes: Hugging Face's `response_template`.

    {"fields": {"thinking":   {"open": "<think>", "close": "</think>"},
                "content":    {"open": "<answer>", "close": "</answer>"},
                "tool_calls": {"open": "<tool_call>", "close": "</tool_call>", "repeats": true,
                               "content": "json", "transform": {"function": "{content}"}}}}

Of the shape, what families of ours can express is taken (see docs/parsing.md); `{"family": NAME}`
names one that is known. A pattern counts if it is a literal around the name of the tool.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from samovar.chat.families import FAMILIES
from samovar.chat.shapes import Family, Frame, Part, Reasoning, Slot

NAME = "response_template"

_REASONING = ("reasoning_content", "reasoning", "thinking")
_NAMED = re.compile(r"\(\?P<(\w+)>(?:[^()\\\[]|\\.|\[[^\]]*\])*\)")
_PLACE = re.compile(r"\{(\w+)(?:\.(\w+))?\}")


class UnreadableError(ValueError):
    """The description cannot be followed; the text says what in it."""


def described_family(value: object) -> Family:
    """The family that a description stands for. Raises UnreadableError."""
    spec = _object(value, "it")
    named = spec.get("family")
    if named is not None:
        if not isinstance(named, str) or named not in FAMILIES:
            raise UnreadableError(f"no family is called that; use one of {', '.join(FAMILIES)}")
        return FAMILIES[named]
    if spec.get("version", 1) != 1:
        raise UnreadableError("only version 1 is known")
    fields = _object(spec.get("fields"), "fields")
    family = Family(NAME)
    for name, field in fields.items():
        family = _with_field(family, name, _object(field, f"fields.{name}"))
    return family


def _with_field(family: Family, name: str, field: Mapping[str, Any]) -> Family:
    where = f"fields.{name}"
    if name in _REASONING:
        open_, close = _literal(field, "open", where), _literal(field, "close", where)
        if not open_.strip() or not close.strip():
            raise UnreadableError(f"{where} needs open and close, as texts")
        return replace(family, reasoning=Reasoning(open_, close))
    if name == "content":
        answer = _literal(field, "open", where), _literal(field, "close", where)
        return replace(family, answer=answer, drop=tuple(filter(None, answer)))
    if name == "tool_calls":
        return replace(family, frames=(_frame(field, where),))
    return family


def _frame(field: Mapping[str, Any], where: str) -> Frame:
    close = _literal(field, "close", where)
    if field.get("content") == "python-call-list":
        return Frame((Slot.PYTHON,), _literal(field, "open", where), close)
    if field.get("content") != "json" or field.get("content_args"):
        raise UnreadableError(
            f"{where}.content must be json or python-call-list, without arguments"
        )
    function = _function(field, where)
    if "open_pattern" in field:
        return _behind_name(str(field["open_pattern"]), close, function, where)
    open_ = _literal(field, "open", where)
    is_list = field.get("transform_each", False)
    if not open_:
        raise UnreadableError(f"{where} needs open or open_pattern")
    name, arguments = "name", "arguments"
    if isinstance(function, Mapping):
        name, arguments = (
            _key(function.get(key), is_list=is_list, where=where) for key in (name, arguments)
        )
    slot = Slot.LIST if is_list else Slot.ENVELOPE
    is_per_call = bool(field.get("repeats")) and bool(close) and not is_list
    return Frame(
        (slot,),
        open_,
        close,
        is_per_call=is_per_call,
        between="\n",
        name_key=name,
        arguments_key=arguments,
    )


def _function(field: Mapping[str, Any], where: str) -> object:
    """What the transform makes the function of: nothing said, what was read is one."""
    transform = field.get("transform", "{content}")
    if isinstance(transform, str):
        return transform
    function = _object(transform, f"{where}.transform").get("function", "{content}")
    if isinstance(function, str | Mapping):
        return function
    raise UnreadableError(f"{where}.transform.function must be an object, or {{content}}")


def _key(value: object, *, is_list: bool, where: str) -> str:
    """The key of an envelope that a placeholder stands for: {content.key}, in a list {key}."""
    match = _PLACE.fullmatch(value) if isinstance(value, str) else None
    key = None if match is None else match[1] if is_list else match[2]
    if key is None:
        raise UnreadableError(f"{where}.transform must take the name and the arguments of content")
    return key


def _behind_name(pattern: str, close: str, function: object, where: str) -> Frame:
    """A name in what opens a call, and its arguments as JSON behind."""
    match = _NAMED.search(pattern)
    if match is None or not isinstance(function, Mapping):
        raise UnreadableError(f"{where}.open_pattern must have a named group for the name")
    wanted = {"name": f"{{{match[1]}}}", "arguments": "{content}"}
    if {key: function.get(key) for key in wanted} != wanted:
        raise UnreadableError(f"{where}.transform must take the name of the pattern's group")
    before, after = (
        _unescaped(text, where) for text in (pattern[: match.start()], pattern[match.end() :])
    )
    if not before.strip():
        raise UnreadableError(f"{where}.open_pattern must begin with a text")
    parts: tuple[Part, ...] = (before, Slot.NAME, after, Slot.JSON, close)
    return Frame(tuple(part for part in parts if part), between="\n")


def _unescaped(pattern: str, where: str) -> str:
    """The text that an expression without any choice stands for; white space may be any."""
    text = re.sub(r"\\s[*+?]?", "\n", pattern)
    bare = re.sub(r"\\.", "", text)
    if re.search(r"[.^$*+?{}\[\]|()]", bare):
        raise UnreadableError(f"{where}.open_pattern must be a literal but for the name")
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)


def _literal(field: Mapping[str, Any], key: str, where: str) -> str:
    """A text that opens or closes; the first of several. Nothing where there is none."""
    value = field.get(key, "")
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str):
        raise UnreadableError(f"{where}.{key} must be a text")
    if f"{key}_pattern" in field and key == "close":
        raise UnreadableError(f"{where}.close_pattern is not supported; give a text")
    return value


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UnreadableError(f"{where} must be an object")
    return value
