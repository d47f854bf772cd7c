"""A conversation, as a request holds it: messages, tools, and what is wanted of the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from samovar.errors import InvalidRequest

Message = dict[str, Any]
"""In the shape of OpenAI's chat completions; `reasoning_content` holds an assistant's reasoning."""

VOLATILE_RULES = ("billing", "date", "reminders")
"""Names of the rules for what changes by itself, in the order in which they are applied."""

Tool = dict[str, Any]
"""`{"type": "function", "function": {"name", "description", "parameters"}}`."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which calls a request wants."""

    mode: Literal["auto", "required", "none"] = "auto"
    name: str | None = None
    """The one tool that must be called, once; the mode does not matter then."""
    is_parallel: bool = True
    """Whether there may be several calls in a turn."""

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "required", "none"):
            raise InvalidRequest("tool_choice must be auto, required, none or the name of a tool")


@dataclass(frozen=True, slots=True)
class Chat:
    """What becomes a prompt through the model's own template, and is answered in events by kind.

    Raises InvalidRequest for values that make no sense; the messages themselves are checked where
    they are rendered.
    """

    messages: tuple[Message, ...]
    """Oldest first."""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    thinks: bool | None = None
    """Whether to reason before answering, where the template lets it be chosen; None: as the
    template does when nothing is said."""
    reasoning_tokens: int | None = None
    """Most tokens of reasoning; then the answer has to begin. None: no limit."""
    variables: dict[str, Any] = field(default_factory=dict)
    """Further variables of the template."""
    continues_last: bool = False
    """The last message is the beginning of the answer, which goes on behind it."""
    family: str | None = None
    """How to read what the model writes, by name (see docs/parsing.md); None: by its template."""
    replays: bool | None = None
    """Where a turn that was generated here comes back as text, take the tokens that it was. None:
    as the server's configuration says, else yes."""
    volatile: tuple[str, ...] | None = None
    """Rules for what changes from turn to turn without meaning to (see docs/stability.md), names
    out of VOLATILE_RULES. None: as the server's configuration says, else none."""

    def __post_init__(self) -> None:
        if not self.messages:
            raise InvalidRequest("messages must hold at least one message")
        budget = self.reasoning_tokens
        is_whole = isinstance(budget, int) and not isinstance(budget, bool)
        if budget is not None and not (is_whole and budget >= 0):
            raise InvalidRequest("reasoning_tokens must be 0 or more")
        if self.continues_last and self.messages[-1].get("role") != "assistant":
            raise InvalidRequest("only a last message of the assistant's can be continued")
