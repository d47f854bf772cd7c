"""Which family a model writes in, and whether its turn begins within reasoning."""

from __future__ import annotations

from dataclasses import replace

from samovar.chat.families import FAMILIES, NONE
from samovar.chat.probing import Render, probed_frame
from samovar.chat.shapes import Family
from samovar.errors import InvalidRequest

PROBED = "probed"
"""The name of a family that was found by rendering a call."""


def choose(source: str | None, *, name: str | None = None, render: Render | None = None) -> Family:
    """The family by its name if one is given, else by the chat template.

    The markers in the template's source decide; where it has none of a call, `render` is tried,
    which must render with this template. Else there is no family: all text is content. Raises
    InvalidRequest for a name that is none.
    """
    if name is not None:
        if name not in FAMILIES:
            raise InvalidRequest(
                f"no output family has that name; use one of {', '.join(FAMILIES)}"
            )
        return FAMILIES[name]
    found = _by_markers(source or "")
    if found.frames or render is None:
        return found
    frame = probed_frame(render)
    return found if frame is None else replace(found, name=PROBED, frames=(frame,))


def starts_in_reasoning(family: Family, prompt: str) -> bool:
    """Whether a rendered prompt ends with the marker that opens reasoning."""
    if family.reasoning is None:
        return False
    return prompt.rstrip().endswith(family.reasoning.open.strip())


def is_reasoning_open(family: Family, prompt: str) -> bool:
    """Whether a rendered prompt ends within reasoning, wherever that began."""
    if family.reasoning is None:
        return False
    opened = prompt.rfind(family.reasoning.open.strip())
    return opened > prompt.rfind(family.reasoning.close.strip())


def _by_markers(source: str) -> Family:
    for family in FAMILIES.values():
        if any(all(marker in source for marker in row) for row in family.markers):
            return family
    return NONE
