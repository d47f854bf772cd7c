"""Conversations that share a system prompt, as a service sees them: a turn of each, then the next.

Texts are random ids; what is answered is whatever the one who serves says. Turns of one round come
in random order, so that whoever has fewer lanes than conversations loses their cells in between.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.measure import prompt

_SYSTEM = 10**6  # seeds: of the system prompt, then of each user's turn
_SHORTEST, LONGEST = 100, 300  # tokens that a user says


@dataclass(slots=True)
class Talk:
    """One conversation as far as it has come."""

    number: int
    tokens: list[int]
    ends: list[int] = field(default_factory=list)
    """How long it was at the end of each turn."""

    def hear(self, tokens: tuple[int, ...]) -> None:
        """What was answered."""
        self.tokens += tokens
        self.ends.append(len(self.tokens))


@dataclass(frozen=True, slots=True)
class Talks:
    """All of them."""

    system: tuple[int, ...]
    every: list[Talk]
    seed: int = 0

    @property
    def num_computed(self) -> int:
        """Different tokens whose KV was computed: the last one of each answer never was."""
        own = sum(len(talk.tokens) - len(self.system) - 1 for talk in self.every)
        return len(self.system) + own

    @property
    def row_tokens(self) -> int:
        """Tokens of all rows, where the end of each turn stores the whole conversation."""
        return sum(end - 1 for talk in self.every for end in talk.ends)

    @property
    def last_row_tokens(self) -> int:
        """The same where a row replaces the one before it."""
        return sum(talk.ends[-1] - 1 for talk in self.every)

    def round(self) -> Iterator[Talk]:
        """Each of them once, with what its user says next."""
        turn = len(self.every[0].ends)
        chance = random.Random(f"{self.seed} {turn}")
        for talk in chance.sample(self.every, len(self.every)):
            said = chance.randint(_SHORTEST, LONGEST)
            talk.tokens += prompt(said, talk.number * 1000 + turn)
            yield talk


def talks(args: argparse.Namespace) -> Talks:
    """As many as `--conversations`, after a system prompt of `--system` tokens."""
    system = prompt(args.system, _SYSTEM)
    return Talks(system, [Talk(number, list(system)) for number in range(args.conversations)])
