"""Blocks of content that come in: which there are, what they say, and which are refused.

Models here read text. Documents and search results that are text are read as such; what is not
text is refused with a word on what to do instead, never dropped.
"""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from samovar.api.anthropic.schema import CacheControl, Content, Fields
from samovar.errors import InvalidRequest


class Block(Fields):
    """What all blocks may have."""

    cache_control: CacheControl | None = None


class TextBlock(Block):
    """Plain text."""

    text: str


class ThinkingBlock(Block):
    """Reasoning of an earlier turn."""

    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Block):
    """Reasoning that only Anthropic can read."""

    data: str


class ToolUseBlock(Block):
    """A call of a tool."""

    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(Block):
    """What came of a call."""

    tool_use_id: str
    content: Content | None = None
    is_error: bool | None = None


class DocumentBlock(Block):
    """A document; read if it is text."""

    source: dict[str, Any]
    title: str | None = None
    context: str | None = None


class SearchResultBlock(Block):
    """Something that was found by the client."""

    source: str
    title: str
    content: list[dict[str, Any]]


_BLOCKS: dict[str, type[Block]] = {
    "text": TextBlock,
    "thinking": ThinkingBlock,
    "redacted_thinking": RedactedThinkingBlock,
    "tool_use": ToolUseBlock,
    "tool_result": ToolResultBlock,
    "document": DocumentBlock,
    "search_result": SearchResultBlock,
}

_REFUSED = {
    "image": "images are not read; say in text what they show",
    "container_upload": "there are no containers; send the file's text",
    "server_tool_use": "there are no tools of the server's; leave their calls and results out",
    "tool_reference": "tools are not searched for; send the tools themselves",
}

_MAX_TYPE = 40  # characters of a type that is told back: longer ones are no slip of the pen

Model = TypeVar("Model", bound=Fields)


def blocks_of(content: Content, where: str) -> list[tuple[str, Block]]:
    """The blocks of a message, and where each stands. Raises InvalidRequest."""
    if isinstance(content, str):
        return [(where, TextBlock(text=content))]
    return [_placed(value, f"{where}[{index}]") for index, value in enumerate(content)]


def text_of(content: Content | None, where: str) -> str:
    """Text, or blocks that are text, one below the other. Raises InvalidRequest for others."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(told(block, place) for place, block in blocks_of(content, where))


def told(block: Block, where: str) -> str:
    """What a block says. Raises InvalidRequest for one that cannot stand there."""
    match block:
        case TextBlock():
            return block.text
        case DocumentBlock():
            text = _document(block.source, where)
            return "\n\n".join(part for part in (block.title, block.context, text) if part)
        case SearchResultBlock():
            text = text_of(block.content, f"{where}.content")
            return f"{block.title}\n{block.source}\n\n{text}"
    raise InvalidRequest(f"{where}: only text can stand here")


def _document(source: dict[str, Any], where: str) -> str:
    kind, data, content = (source.get(key) for key in ("type", "data", "content"))
    if kind == "text" and isinstance(data, str):
        return data
    if kind == "content" and isinstance(content, str | list):
        return text_of(content, f"{where}.source.content")
    raise InvalidRequest(f"{where}: only documents of plain text are read; send the text of this")


def _placed(value: dict[str, Any], where: str) -> tuple[str, Block]:
    kind = value.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest(f"{where}: a block needs a type, such as text")
    model = _BLOCKS.get(kind)
    if model is None:
        _refuse(kind, where)
    return where, checked(model, value, where)


def _refuse(kind: str, where: str) -> NoReturn:
    reason = _REFUSED["server_tool_use"] if kind.endswith("_tool_result") else _REFUSED.get(kind)
    raise InvalidRequest(
        f"{where}: {reason}"
        if reason
        else f"{where}: blocks of type {kind[:_MAX_TYPE]} are unknown"
    )


def checked(model: type[Model], value: dict[str, Any], where: str) -> Model:
    """An object of a body, checked. Raises InvalidRequest with the place, and not the value."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in (where, *first["loc"]))
        raise InvalidRequest(f"{place}: {first['msg']}") from None
