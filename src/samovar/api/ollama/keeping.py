"""`keep_alive`: how long a model stays after a request, as Ollama's clients say it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from samovar.errors import InvalidRequest

_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|\u00b5s|ms|s|m|h)")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")
_MOST_CHARACTERS = 64  # of a duration; nobody writes longer ones
_FOREVER = 100 * 365 * 86400.0
"""Seconds: what is longer than any process runs is for ever."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What a request said of it."""

    seconds: float | None
    """None: for ever. 0: not at all."""

    @property
    def is_leaving(self) -> bool:
        """Whether the model is to go at once."""
        return self.seconds == 0


def keep_of(value: float | str | None) -> Keep | None:
    """What is meant by a number of seconds, or by a duration such as `5m`; None: nothing was said.

    Negative ones mean for ever. Raises InvalidRequest.
    """
    if value is None:
        return None
    seconds = _seconds(value) if isinstance(value, str) else float(value)
    return Keep(seconds if 0 <= seconds < _FOREVER else None)


def _seconds(text: str) -> float:
    text = text.strip()[:_MOST_CHARACTERS]
    if _NUMBER.fullmatch(text):  # of seconds, as a JSON number would be
        return float(text)
    sign, rest = (-1.0, text[1:]) if text[:1] == "-" else (1.0, text.removeprefix("+"))
    parts = _PART.findall(rest)
    if not parts or "".join(map("".join, parts)) != rest:
        raise InvalidRequest(
            "keep_alive must be a number of seconds or a duration such as 30s, 5m or 1h30m; -1"
            " keeps the model for ever, 0 unloads it"
        )
    return sign * sum(float(number) * _UNITS[unit] for number, unit in parts)
