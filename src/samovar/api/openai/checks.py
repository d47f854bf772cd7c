"""Fields of a body: which of them is wrong, and which nobody knows."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import BaseModel

from samovar.errors import InvalidRequest

MAX_NAME = 512  # characters of a user's, a session's or a salt's name: they become keys

_MAX_IGNORED = 16  # names of unknown fields that are told: a header has to hold them
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}")
_FIELD = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_TYPES = frozenset({"str", "int", "float", "bool", "dict", "list"})


class BadField(InvalidRequest):
    """A field of the body is wrong; `param` is its place, as in `messages[0].content`."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


def param_of(place: Iterable[int | str]) -> str | None:
    """A field by where validation found it, without the names of the types that were tried."""
    path = ""
    for one in place:
        if isinstance(one, int):
            path += f"[{one}]"
        elif _FIELD.fullmatch(one) and one not in _TYPES:
            path += f".{one}" if path else one
    return path or None


def ignored(body: BaseModel, accepted: frozenset[str]) -> list[str]:
    """Names of fields that nobody knows: misspelt, or of another server. At most some."""
    unknown = (name for name in body.model_extra or {} if name not in accepted)
    return [name for name in unknown if _NAME.fullmatch(name)][:_MAX_IGNORED]
