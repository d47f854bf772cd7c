"""The variables by which a template turns reasoning on and off, found out by trying.

Nobody agreed on a name, and a template that speaks of one need not heed it: what counts is whether
a prompt changes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Attempt = Callable[[Mapping[str, Any]], str | None]
"""Renders a small conversation with these variables, with a generation prompt; None: it fails."""


@dataclass(frozen=True, slots=True)
class _Switch:
    name: str
    on: Any
    off: Any


_SWITCHES = (
    _Switch("enable_thinking", on=True, off=False),
    _Switch("thinking", on=True, off=False),
    _Switch("think", on=True, off=False),
    _Switch("reasoning", on=True, off=False),
    _Switch("enable_reasoning", on=True, off=False),
    _Switch("thinking_budget", on=-1, off=0),
)

_EFFORT = "reasoning_effort"
_LEAST = ("none", "minimal", "low")
"""Efforts, the least first: where reasoning cannot be turned off, it can be made short."""


def thinking_variables(source: str, attempt: Attempt, *, thinks: bool) -> dict[str, Any]:
    """The variables that turn reasoning on or off; none where the template has no such thing."""
    found = {
        one.name: one.on if thinks else one.off
        for one in _SWITCHES
        if one.name in source and _differs(attempt, {one.name: one.on}, {one.name: one.off})
    }
    if found or thinks or _EFFORT not in source:
        return found
    for effort in _LEAST:
        is_known = f"'{effort}'" in source or f'"{effort}"' in source or effort == _LEAST[-1]
        if is_known and _differs(attempt, {}, {_EFFORT: effort}):
            return {_EFFORT: effort}
    return {}


def _differs(attempt: Attempt, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    texts = attempt(one), attempt(other)
    return None not in texts and texts[0] != texts[1]
