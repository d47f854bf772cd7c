"""The index, said as simply as possible: dictionaries, recursion, numbers that nobody optimised."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from samovar.cache.block import ROWS, STATE
from samovar.cache.index.index import About, Tier
from samovar.cache.index.policy import SECONDS_PER_TOKEN
from samovar.cache.keys import ROOT, Key, block_key, pack_tokens

NAMESPACE = b"n" * 32
Name = tuple[Key, str]
Tokens = tuple[int, ...]


def blocks_of(prompt: Tokens, longest: int) -> dict[Tokens, About]:
    """Every block there can be of a prompt, in any cut, by its cut: `(2, 1)` is tokens 2 to 3."""
    found: dict[Tokens, About] = {}

    def grow(cut: Tokens, parent: Key, start: int) -> None:
        for count in range(1, min(longest, len(prompt) - start) + 1):
            key = block_key(NAMESPACE, parent, pack_tokens(prompt[start : start + count]))
            found[*cut, count] = About(key, parent, ROWS, start, count)
            grow((*cut, count), key, start + count)

    grow((), ROOT, 0)
    return found


@dataclass
class Entry:
    """A block that the forest knows."""

    about: About
    is_attached: bool = False
    """Whether it was ever said what it is: before that only its children name it."""
    copies: dict[Tier, int] = field(default_factory=dict)
    leases: int = 0
    hits: float = 0.0
    """Each hit counts 2^(its time / half-life)."""
    seconds: float = 0.0

    @property
    def end(self) -> int:
        return self.about.start + self.about.num_tokens

    @property
    def bytes(self) -> int:
        return max(self.copies.values())

    @property
    def worth(self) -> float:
        return self.hits * self.seconds / self.bytes


class Forest:
    """Blocks by name. `universe` says what each name stands for."""

    def __init__(self, universe: Iterable[About], half_life: float) -> None:
        self.universe = {(about.key, about.kind): about for about in universe}
        self.half_life = half_life
        self.entries: dict[Name, Entry] = {}
        self.pins: set[Key] = set()

    # How blocks hang together

    def parent(self, name: Name) -> Name | None:
        entry = self.entries[name]
        if entry.about.kind == STATE:
            return (entry.about.key, ROWS)
        if not entry.is_attached or entry.about.parent == ROOT:
            return None
        return (entry.about.parent, ROWS)

    def children(self, name: Name) -> Iterator[Name]:
        return (other for other in self.entries if self.parent(other) == name)

    def ancestors(self, name: Name) -> Iterator[Name]:
        while (above := self.parent(name)) is not None:
            yield above
            name = above

    def is_held(self, name: Name) -> bool:
        entry = self.entries[name]
        is_pinned = bool(entry.copies) and name[0] in self.pins
        return entry.leases > 0 or is_pinned or any(map(self.is_held, self.children(name)))

    # What happens

    def add(self, tier: Tier, name: Name, nbytes: int, now: float, seconds: float) -> None:
        entry = self._know(self.universe[name])
        entry.seconds = seconds or entry.seconds or SECONDS_PER_TOKEN * entry.about.num_tokens
        if not entry.copies:
            entry.hits += 2 ** (now / self.half_life)
        entry.copies[tier] = nbytes

    def _know(self, about: About) -> Entry:
        entry = self.entries.setdefault((about.key, about.kind), Entry(about))
        entry.is_attached = True
        if about.kind == STATE:
            self._know(about._replace(kind=ROWS))
        elif about.parent != ROOT:
            above = (about.parent, ROWS)
            self.entries.setdefault(above, Entry(self.universe[above]))
        return entry

    def discard(self, name: Name, tier: Tier) -> None:
        self.entries[name].copies.pop(tier, None)
        self.forget()

    def release(self, names: Iterable[Name]) -> None:
        for name in names:
            self.entries[name].leases -= 1
        self.forget()

    def forget(self) -> None:
        """Whatever is in no tier and needed by nothing is unknown again."""
        while idle := [
            name
            for name, entry in self.entries.items()
            if not (entry.copies or entry.leases or any(True for _ in self.children(name)))
        ]:
            for name in idle:
                del self.entries[name]

    def touch(self, names: list[Name], now: float) -> None:
        for name in names:
            forks = sum(kind == ROWS for _, kind in self.children(name))
            weight = 1 + math.log2(forks) if forks > 1 else 1
            self.entries[name].hits += weight * 2 ** (now / self.half_life)
        for name in names:
            least = 0.0
            for one in (name, *self.ancestors(name)):
                entry = self.entries[one]
                if entry.copies:
                    least = max(least, entry.worth)
                    entry.hits = max(entry.hits, least * entry.bytes / entry.seconds)

    # What is there

    def paths(self, prompt: Tokens) -> list[tuple[Name, ...]]:
        """Every path of existing blocks that a prompt begins with."""
        found: list[tuple[Name, ...]] = [()]
        for path in found:
            end = self.entries[path[-1]].end if path else 0
            before = path[-1][0] if path else ROOT
            for (key, kind), entry in self.entries.items():
                piece = pack_tokens(prompt[end : end + entry.about.num_tokens])
                is_next = kind == ROWS and key == block_key(NAMESPACE, before, piece)
                if is_next and entry.copies:
                    found.append((*path, (key, kind)))
        return found

    def state_on(self, path: tuple[Name, ...]) -> Name | None:
        """The last state on a path."""
        for key, _ in reversed(path):
            entry = self.entries.get((key, STATE))
            if entry is not None and entry.copies:
                return (key, STATE)
        return None

    def may_go(self, tier: Tier, gone: set[Name]) -> dict[Name, float]:
        """What may be taken from a tier when `gone` has gone already, and what it is worth."""
        return {
            name: entry.worth
            for name, entry in self.entries.items()
            if tier in entry.copies
            and name not in gone
            and not self.is_held(name)
            and not any(
                tier in self.entries[child].copies and child not in gone
                for child in self.children(name)
            )
        }
