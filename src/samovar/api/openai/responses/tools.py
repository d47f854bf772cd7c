"""Tools and the choice among them, which Responses writes flatter than chats do.

Agents send what they have: functions, namespaces of functions, custom tools that take free text,
and tools that only OpenAI's own servers run. A model is offered the functions, and custom tools as
functions of one text. What is left out is told; a request that has nothing else, or wants one of
those, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from samovar.api.openai import tools as nested
from samovar.api.openai.checks import BadField
from samovar.types import Tool, ToolChoice

_FUNCTION = ("name", "description", "parameters", "strict")
INPUT = "input"
"""The one argument of a custom tool."""

_HOSTED = (
    "apply_patch",
    "code_interpreter",
    "computer",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "programmatic_tool_calling",
    "shell",
    "tool_search",
    "web_search",
)
"""How the types begin that OpenAI's servers run, or that its models were made for."""


class Wish(BaseModel):
    """One function that must be called, or some that may."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function", "custom", "allowed_tools"]
    name: str | None = None
    function: nested.Named | None = None
    """Where chats have the name."""
    mode: Literal["auto", "required"] | None = None
    tools: nested.Tools | None = None


@dataclass(slots=True)
class Offered:
    """What a model is offered of the tools of a request."""

    tools: list[Tool] = field(default_factory=list)
    shown: list[dict[str, Any]] = field(default_factory=list)
    """The same as the response object tells of them."""
    namespaces: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By what the model calls them: the namespaces of functions, and their names there."""
    customs: set[str] = field(default_factory=set)
    """Names of those that take free text."""
    left_out: list[str] = field(default_factory=list)
    """What is not offered: `tools[2].web_search`."""


def offered(given: Sequence[Mapping[str, Any]]) -> Offered:
    """What is offered. Raises BadField for what is no tool, and if nothing is left."""
    made = Offered()
    for i, one in enumerate(given):
        kind = one.get("type", "function")
        if kind == "namespace":
            _add_namespace(made, one, f"tools[{i}]")
        elif kind == "custom":
            made.tools.append(_custom(one, f"tools[{i}]"))
            made.shown.append({key: one.get(key) for key in ("type", "name", "description")})
            made.customs.add(one["name"])
        elif isinstance(kind, str) and kind.startswith(_HOSTED):
            made.left_out.append(f"tools[{i}].{next(filter(kind.startswith, _HOSTED))}")
        else:
            made.tools.append(_function(one, f"tools[{i}]"))
            made.shown.append(_shown(one))
    if made.left_out and not made.tools:
        raise BadField(
            f"{made.left_out[0].partition('.')[0]}.type",
            "this server runs no tools of its own; run it yourself and offer it as a function",
        )
    return made


def full_name(namespace: object, name: str) -> str:
    """What a model calls a function of a namespace."""
    if not isinstance(namespace, str) or not namespace:
        return name
    return f"{namespace.removesuffix('__')}__{name}"


def wish_of(
    wish: nested.Mode | Wish | None, tools: Sequence[Tool], *, is_parallel: bool
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """What is to be called, and of which tools. Raises BadField for tools that are not there."""
    said = _nested_wish(wish) if isinstance(wish, Wish) else wish
    return nested.wish_of(said, None, tuple(tools), is_parallel=is_parallel)


def _add_namespace(made: Offered, given: Mapping[str, Any], place: str) -> None:
    namespace, inner = given.get("name"), given.get("tools")
    if not isinstance(namespace, str) or not namespace:
        raise BadField(f"{place}.name", "a namespace needs a name")
    if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
        raise BadField(f"{place}.tools", "must be a list of functions")
    for i, one in enumerate(inner):
        tool = _function(one, f"{place}.tools[{i}]")
        function = tool["function"]
        name = full_name(namespace, function["name"])
        made.namespaces[name] = namespace, function["name"]
        made.tools.append({"type": "function", "function": {**function, "name": name}})
    made.shown.append({key: given.get(key) for key in ("type", "name", "description", "tools")})


def _custom(given: Mapping[str, Any], place: str) -> Tool:
    """A tool of free text as a function of one text; a grammar of it is told, and not enforced."""
    told = [one for one in (given.get("description"), _grammar(given)) if isinstance(one, str)]
    text = {"type": "string", "description": "All of the input."}
    schema = {"type": "object", "properties": {INPUT: text}, "required": [INPUT]}
    function = {"name": given.get("name"), "parameters": schema}
    if told:
        function["description"] = "\n".join(told)
    return _function(function, place)


def _grammar(given: Mapping[str, Any]) -> str | None:
    wanted = given.get("format")
    if not isinstance(wanted, Mapping) or not isinstance(wanted.get("definition"), str):
        return None
    return f"The input follows this grammar ({wanted.get('syntax')}):\n{wanted['definition']}"


def _function(given: Mapping[str, Any], place: str) -> Tool:
    try:
        (tool,) = nested.tools_of([_nested(given)], None)
    except BadField as error:
        param = error.param.replace("tools[0]", place, 1)
        raise BadField(param, str(error).removeprefix(f"{error.param}: ")) from None
    return tool


def _nested(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type", "function") != "function" or isinstance(tool.get("function"), Mapping):
        return dict(tool)
    function = {name: tool[name] for name in _FUNCTION if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = _nested(tool)["function"]
    return {"type": "function"} | {name: function.get(name) for name in _FUNCTION}


def _nested_wish(wish: Wish) -> nested.ToolWishObject:
    if wish.type == "allowed_tools":
        if wish.tools is None:
            raise BadField("tool_choice.tools", "it is needed")
        allowed = nested.AllowedTools(mode=wish.mode or "auto", tools=wish.tools)
        return nested.ToolWishObject(type="allowed_tools", allowed_tools=allowed)
    name = wish.name if wish.function is None else wish.function.name
    if name is None:
        raise BadField("tool_choice.name", "it is needed")
    return nested.ToolWishObject(function=nested.Named(name=name))
