"""What callers send, checked and brought into one shape: that of OpenAI's chat completions.

The result shares nothing with what was passed in and holds plain JSON types only, so a template
may change it and no object of ours is within its reach. What is wrong raises InvalidRequest,
with the place and the types in the message, never the text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from samovar.errors import InvalidRequest
from samovar.types import Message, Tool

Json = Any
"""Plain JSON data: str, int, float, bool, None, and lists and dicts of them."""

MAX_DEPTH = 100
"""Nesting of a message or tool; deeper would run the recursive walks out of stack."""

MAX_INTEGER_BITS = 1024
"""Python refuses to print integers of more than 4,300 digits, which JSON and templates need."""

RESERVED = frozenset(
    {
        "messages",
        "tools",
        "add_generation_prompt",
        "thinks",
        "continues_last",
        "bos_token",
        "eos_token",
        "self",
    }
)
"""Variables that a caller may not set besides the arguments of these names."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def plain_messages(messages: object) -> list[Message]:
    """The conversation, copied. Idempotent.

    Keys that hold None are left out, except that an absent text becomes "" (None in an assistant's
    message with tool calls). Tool calls have `type` and `function`; arguments sent as the text of
    a JSON object are that object, other arguments stay as they are.
    """
    if not isinstance(messages, (list, tuple)):
        raise InvalidRequest(f"messages must be a list, not {_kind(messages)}")
    if not messages:
        raise InvalidRequest("messages must hold at least one message")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def plain_tools(tools: object) -> list[Tool] | None:
    """The tools in the `{"type": "function", "function": {...}}` shape, or None without any.

    A flat `{"name", "description", "parameters"}` is wrapped; absent parameters become the schema
    of an empty object. Idempotent.
    """
    if tools is None:
        return None
    if not isinstance(tools, (list, tuple)):
        raise InvalidRequest(f"tools must be a list, not {_kind(tools)}")
    return [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)] or None


def plain_variables(variables: object) -> dict[str, Any]:
    """Further variables of a template, such as `enable_thinking`, copied. None: no variables."""
    if variables is None:
        return {}
    if not isinstance(variables, Mapping):
        raise InvalidRequest(f"variables must be an object, not {_kind(variables)}")
    for name in variables:
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise InvalidRequest("names of template variables must be plain identifiers")
        if name in RESERVED:
            raise InvalidRequest(f"the template variable {name} is set by the request itself")
    return {name: plain(value, f"variables.{name}") for name, value in variables.items()}


def plain(value: object, where: str, depth: int = 0) -> Json:
    """A copy of plain JSON types; tuples become lists, lone surrogates U+FFFD."""
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"{where} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        return sound_text(value)
    if isinstance(value, Mapping):
        return {_key(key, where): plain(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, where, depth + 1) for item in value]
    return _scalar(value, where)


def _scalar(value: object, where: str) -> bool | int | float | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value.bit_length() <= MAX_INTEGER_BITS:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise InvalidRequest(f"{where} holds {_kind(value)} that JSON cannot express")


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise InvalidRequest(f"{where} has a key that is not text")
    return sound_text(key)


def sound_text(text: str) -> str:
    """`text` with U+FFFD for halves of surrogate pairs, which JSON can spell and UTF-8 cannot."""
    if _SURROGATE.search(text):
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return str(text)


def _message(message: object, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"{where} must be an object, not {_kind(message)}")
    result: Message = {
        key: value for key, value in plain(message, where).items() if value is not None
    }
    role = result.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidRequest(f"{where} needs a role, such as 'user'")
    _tool_calls(result, where)
    result["content"] = _content(message, result, where)
    return result


def _content(message: Mapping[Any, Any], result: Message, where: str) -> str | list[Any] | None:
    content = result.get("content")
    if content is None and "tool_calls" in result:
        return None
    if content is None and "content" not in message and "reasoning_content" not in result:
        raise InvalidRequest(f"{where} needs content")
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return [_part(part, f"{where}.content[{index}]") for index, part in enumerate(content)]
    raise InvalidRequest(f"{where}.content must be text or a list of parts, not {_kind(content)}")


def _part(part: object, where: str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise InvalidRequest(f"{where} must be an object with a type, such as 'text'")
    if part["type"] == "text" and not isinstance(part.get("text"), str):
        raise InvalidRequest(f"{where}.text must be text, not {_kind(part.get('text'))}")
    return part


def _tool_calls(message: Message, where: str) -> None:
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list):
        raise InvalidRequest(f"{where}.tool_calls must be a list, not {_kind(calls)}")
    if calls:
        message["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)
        ]
    else:  # templates ask whether the key is there, not whether the list holds anything
        message.pop("tool_calls", None)


def _call(call: object, where: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise InvalidRequest(f"{where} must be an object, not {_kind(call)}")
    if "function" not in call and "name" in call:
        arguments = call.pop("arguments", None)
        call["function"] = {"name": call.pop("name"), "arguments": arguments}
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"{where} needs a function with a name")
    function["arguments"] = _arguments(function.get("arguments"))
    if call.get("id", "") is None:
        del call["id"]
    return call if "type" in call else {"type": "function", **call}


def _arguments(arguments: Json) -> Json:
    if arguments is None or arguments == "":
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments)
        return plain(value, "arguments") if isinstance(value, dict) else arguments
    except (ValueError, RecursionError, InvalidRequest):
        return arguments  # a model's own slip in the history; some templates show it as it is


def _tool(tool: object, where: str) -> Tool:
    if not isinstance(tool, Mapping):
        raise InvalidRequest(f"{where} must be an object, not {_kind(tool)}")
    result: Tool = plain(tool, where)
    if "function" not in result:
        function = {key: value for key, value in result.items() if key != "type"}
        result = {"type": result.get("type", "function"), "function": function}
    function = result["function"]
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"{where} needs a function with a name")
    if function.get("description", "") is None:
        del function["description"]
    if function.get("parameters") is None:
        function["parameters"] = {"type": "object", "properties": {}}
    return result if "type" in result else {"type": "function", **result}


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
