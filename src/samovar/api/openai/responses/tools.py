"""Tools and the choice among them, which Responses writes flatter than chats do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from samovar.api.openai import tools as nested
from samovar.api.openai.checks import BadField
from samovar.types import Tool, ToolChoice

_FUNCTION = ("name", "description", "parameters", "strict")


class Wish(BaseModel):
    """One function that must be called, or some that may."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function", "allowed_tools"]
    name: str | None = None
    function: nested.Named | None = None
    """Where chats have the name."""
    mode: Literal["auto", "required"] | None = None
    tools: nested.Tools | None = None


def tools_of(given: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The tools. Raises BadField for what is no function: this server runs no tools of its own."""
    return nested.tools_of([_nested(one) for one in given], None)


def flat_tools(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tools as the response object tells of them."""
    functions = [_nested(one)["function"] for one in given]
    return [
        {"type": "function"} | {name: function.get(name) for name in _FUNCTION}
        for function in functions
    ]


def wish_of(
    wish: nested.Mode | Wish | None, tools: tuple[Tool, ...], *, is_parallel: bool
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """What is to be called, and of which tools. Raises BadField for tools that are not there."""
    said = _nested_wish(wish) if isinstance(wish, Wish) else wish
    return nested.wish_of(said, None, tools, is_parallel=is_parallel)


def _nested(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type", "function") != "function" or isinstance(tool.get("function"), Mapping):
        return dict(tool)
    function = {name: tool[name] for name in _FUNCTION if tool.get(name) is not None}
    return {"type": "function", "function": function}


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
