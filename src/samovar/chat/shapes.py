"""What a family of output is made of: the markers around reasoning and calls, as data.

A family is what one kind of model was trained to write. The parser reads by it, and the constraint
that makes a model write so is made from it. White space in the literals is what models write; in
reading any, also none, will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Slot(Enum):
    """What stands between the literals of a call."""

    NAME = "name"
    """The name of a tool that was given."""
    WORD = "word"
    """An id or a number that the model gives to its call: letters, digits, `_` and `-`."""
    JSON = "json"
    """The arguments as a JSON object."""
    ENVELOPE = "envelope"
    """A JSON object that holds the name and the arguments."""
    LIST = "list"
    """A JSON array of such objects."""
    PARAMETERS = "parameters"
    """Each argument between tags, as the family's `Parameters` say."""
    PYTHON = "python"
    """A list of calls in Python's notation, with arguments by keyword."""
    BARE = "bare"
    """An object in Gemma's notation: keys without quotes, texts between quotes of their own."""


@dataclass(frozen=True, slots=True)
class Maybe:
    """Parts that may be left out; whether they are there shows in the first, a literal.

    A constraint has them written where `is_written`.
    """

    parts: tuple[Part, ...]
    is_written: bool = True


Part = str | Slot | Maybe


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What encloses reasoning. It begins only where nothing was said before in the turn."""

    open: str
    close: str
    after: str = ""
    """What is written between `close` and what follows."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What encloses an argument: open, key, key_end, attributes, value_start, value, close."""

    open: str
    key_end: str
    value_start: str
    """Nothing: the value begins behind `key_end`, and there are no attributes."""
    close: str
    wrap: str = ""
    """White space that is written around a value and is no part of it."""
    text_attribute: str = ""
    """What says that the value is a text, where that is said and not left to the schema."""
    json_attribute: str = ""
    """What says that it is JSON; `{type}` stands for its type."""
    between: str = "\n"


@dataclass(frozen=True, slots=True)
class Frame:
    """What encloses calls: `open`, one or more calls, `close`; either may be empty.

    A call also counts where `open` was forgotten, if its first part is a literal.
    """

    call: tuple[Part, ...]
    open: str = ""
    close: str = ""
    is_per_call: bool = False
    """Whether each call of several has `open` and `close` of its own."""
    between: str = ""
    """What is written between calls, white space or a separator."""
    is_anchored: bool = False
    """Whether calls come only where nothing was said before in the turn, as those without any
    marker must: any text may have a bracket."""
    parameters: Parameters | None = None
    name_key: str = "name"
    arguments_key: str = "arguments"
    id_key: str = ""
    is_id_last: bool = False
    """The keys of an envelope that a constraint writes, and whether the id comes first or last; no
    id without its key. Reading knows those of all families."""


@dataclass(frozen=True, slots=True)
class Family:
    """One way of writing."""

    name: str
    markers: tuple[tuple[str, ...], ...] = ()
    """A chat template that holds all texts of one of these rows belongs to this family."""
    reasoning: Reasoning | None = None
    frames: tuple[Frame, ...] = ()
    """The first is what a constraint has written; the others are read as well."""
    drop: tuple[str, ...] = ()
    """Markers that say nothing: they are left out of the content."""
    answer: tuple[str, str] = ("", "")
    """What may enclose an answer; both are among `drop`."""
