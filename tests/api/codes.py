"""The codes that a failure may have."""

from __future__ import annotations

from collections.abc import Iterator

from samovar.api.status import STATUS
from samovar.errors import SamovarError


def exceptions() -> Iterator[type[SamovarError]]:
    """Every class of the tree."""
    waiting = [SamovarError]
    while waiting:
        one = waiting.pop()
        yield one
        waiting.extend(one.__subclasses__())


def codes() -> set[str]:
    """Of every exception, and of what only a server has."""
    return {*STATUS, *(one.code for one in exceptions())}
