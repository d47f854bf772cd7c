"""Which passages, or which part of one, the next call of an embedder computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samovar.native.interface import Passage


@dataclass(frozen=True, slots=True)
class Portion:
    """The next `count` tokens of a passage."""

    passage: Passage
    count: int

    @property
    def finishes(self) -> bool:
        """Whether nothing of the passage is left behind it."""
        return self.count == self.passage.num_remaining


@dataclass(frozen=True, slots=True)
class Room:
    """What one call can hold."""

    tokens: int
    cells: int
    sequences: int
    can_cut: bool
    """Whether a passage may be computed in several calls."""


def portions(passages: Sequence[Passage], limit: int, room: Room) -> list[Portion]:
    """What to compute next: the first passage, and behind it all that fit whole.

    Only the first one may be cut, and then it goes alone: one that is half computed keeps its
    cells, and everything else is gone after the call.
    """
    first, limit = passages[0], max(1, min(limit, room.tokens))
    if first.num_remaining > limit:
        return [Portion(first, limit if room.can_cut else first.num_remaining)]
    found = [Portion(first, first.num_remaining)]
    left = min(limit - first.num_remaining, room.cells - len(first.tokens))
    for passage in passages[1:]:
        if len(found) == room.sequences or not left:
            break
        if len(passage.tokens) <= left:
            found.append(Portion(passage, len(passage.tokens)))
            left -= len(passage.tokens)
    return found


def restart(passage: Passage) -> None:
    """Its cells are gone: it begins anew."""
    passage.num_computed, passage.partial = 0, None
