"""Tools, and which of them are to be called, in both of OpenAI's forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from samovar.api.openai.checks import BadField
from samovar.types import Tool, ToolChoice

_MAX_TOOLS = 1024  # more descriptions than fit into any context

Tools = Annotated[list[dict[str, Any]], Field(max_length=_MAX_TOOLS)]
Functions = Annotated[list[dict[str, Any]], Field(max_length=_MAX_TOOLS)]
Mode = Literal["auto", "none", "required"]


class Named(BaseModel):
    """A function by its name."""

    model_config = ConfigDict(extra="allow")

    name: str


class AllowedTools(BaseModel):
    """Some of the tools."""

    model_config = ConfigDict(extra="allow")

    mode: Literal["auto", "required"] = "auto"
    tools: Tools


class ToolWishObject(BaseModel):
    """One tool that must be called, or some that may."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function", "allowed_tools"] = "function"
    function: Named | None = None
    allowed_tools: AllowedTools | None = None


ToolWish = Mode | ToolWishObject
FunctionCall = Literal["auto", "none"] | Named


def tools_of(tools: Tools | None, functions: Functions | None) -> tuple[Tool, ...]:
    """The tools. Raises BadField for kinds that only OpenAI's own servers run."""
    if tools is None:
        made = [{"type": "function", "function": function} for function in functions or ()]
        param = "functions"
    else:
        made, param = tools, "tools"
    return tuple(_tool(tool, f"{param}[{i}]") for i, tool in enumerate(made))


def _tool(tool: dict[str, Any], place: str) -> Tool:
    if tool.get("type", "function") != "function":
        raise BadField(f"{place}.type", "only tools of type function can be called here")
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadField(f"{place}.function.name", "a tool needs a function with a name")
    if not isinstance(function.get("parameters", {}), (dict, type(None))):
        raise BadField(f"{place}.function.parameters", "must be a JSON schema")
    # Whether arguments keep to the schema is no matter for the model: they always do.
    plain = {key: value for key, value in function.items() if key != "strict"}
    return {"type": "function", "function": plain}


def wish_of(
    wish: ToolWish | None,
    old: FunctionCall | None,
    tools: tuple[Tool, ...],
    *,
    is_parallel: bool,
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """What is to be called, and of which tools. Raises BadField for tools that are not there."""
    param = "tool_choice"
    if wish is None and old is not None:
        param = "function_call"
        wish = ToolWishObject(function=old) if isinstance(old, Named) else old
    if wish is None:
        return ToolChoice(is_parallel=is_parallel), tools
    if isinstance(wish, str):
        _check_there(tools, param, is_needed=wish == "required")
        return ToolChoice(wish, is_parallel=is_parallel), tools
    if wish.allowed_tools is not None:
        allowed = wish.allowed_tools
        names = [_name_of(tool) for tool in allowed.tools]
        some = tuple(tool for tool in tools if _name_of(tool) in names)
        _check_there(some, param, is_needed=allowed.mode == "required")
        return ToolChoice(allowed.mode, is_parallel=is_parallel), some
    if wish.function is None:
        raise BadField(f"{param}.function.name", "it is needed")
    if wish.function.name not in map(_name_of, tools):
        raise BadField(f"{param}.function.name", "there is no tool of this name; send it in tools")
    return ToolChoice("required", wish.function.name, is_parallel), tools


def _check_there(tools: Sequence[Tool], param: str, *, is_needed: bool) -> None:
    if is_needed and not tools:
        raise BadField(param, "demands a call, and there are no tools; send some in tools")


def _name_of(tool: dict[str, Any]) -> object:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else tool.get("name")
