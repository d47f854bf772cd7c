"""One block as the index knows it: where it is, what hangs on it, what it is worth.

A million of these must fit beside a model, so every slot counts: what takes few different values
is shared between nodes, and children are counted, not listed.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import IntEnum
from typing import Generic, NamedTuple, TypeVar

from samovar.cache.index import policy
from samovar.cache.keys import Key


class Tier(IntEnum):
    """Where a copy of a block can lie, the fastest first."""

    MEMORY = 0
    SHM = 1
    DISK = 2

    @property
    def bit(self) -> int:
        """It in a mask of tiers."""
        return 1 << self


TIERS = tuple(Tier)
ALL = len(TIERS)
"""Where Node.below counts the children in any tier or none."""


class About(NamedTuple):
    """What a block is, without its contents; the name of its file says all of it."""

    key: Key
    parent: Key
    kind: str
    start: int
    """The position of its first token."""
    num_tokens: int


class Copy(NamedTuple):
    """One copy of a block in one tier."""

    nbytes: int
    """What it takes of the tier's budget."""
    logits_bytes: int
    """How many bytes of logits it carries; 0: none."""


Copies = tuple[Copy | None, ...]
"""By tier."""

NOWHERE: Copies = (None,) * len(TIERS)
_NONE_BELOW = (0,) * (ALL + 1)

_T = TypeVar("_T", bound=Hashable)


class Shared(Generic[_T]):
    """One object for all equal ones, as long as they are few."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit  # a model has a handful of sizes; more of them are not worth a table
        self._known: dict[_T, _T] = {}

    def __call__(self, value: _T) -> _T:
        """An equal object, perhaps one that others have."""
        if len(self._known) >= self._limit:
            self._known.clear()
        return self._known.setdefault(value, value)


class Node:
    """A block of the index. Read it; only Index and its queues write.

    A node without a tier is a *placeholder*: it is known because something hangs on it, or was
    leased when its last copy went away.
    """

    __slots__ = (
        "below",
        "copies",
        "end",
        "holds",
        "key",
        "kind",
        "leases",
        "lengths",
        "num_tokens",
        "parent",
        "queued",
        "rank",
        "seconds",
        "state",
        "tiers",
    )

    def __init__(self, key: Key, kind: str, end: int) -> None:
        self.key = key
        self.kind = kind
        self.end = end
        """The position behind its last token."""
        self.num_tokens = 0
        """0 as long as nobody said (a placeholder)."""
        self.parent: Node | None = None
        """The rows before it; of a state, the rows that end with it. None: not known."""
        self.state: Node | None = None
        """The state that was taken where these rows end."""
        self.tiers = 0
        """A mask of Tier.bit: where there is a copy."""
        self.copies: Copies = NOWHERE
        self.lengths: tuple[int, ...] = ()
        """How many tokens the rows behind it have, ascending; perhaps of some that are gone."""
        self.below = _NONE_BELOW
        """How many children (rows and state) are in each tier, and at [ALL] in any or none."""
        self.leases = 0
        self.holds = 0
        """Leases, its pin, and children that are held themselves. Held is never a victim."""
        self.queued = 0
        """A mask of the tiers whose queue of victims has it."""
        self.seconds = 0.0
        """What it would take to compute it again."""
        self.rank = policy.COLD
        """Its worth, see policy."""

    def __lt__(self, other: Node) -> bool:
        """Of two that are worth the same, the deeper one goes first; no two are equal."""
        if self.end != other.end:
            return self.end > other.end
        return self.key < other.key

    def __repr__(self) -> str:
        where = "+".join(tier.name.lower() for tier in TIERS if self.tiers & tier.bit) or "nowhere"
        return f"<{self.kind} {self.key.hex()[:8]} {self.start}..{self.end} {where}>"

    @property
    def start(self) -> int:
        """The position of its first token."""
        return self.end - self.num_tokens

    @property
    def nbytes(self) -> int:
        """Bytes of its largest copy; 0 for a placeholder."""
        most = 0
        for copy in self.copies:  # asked at every hit of every block: a generator costs double
            if copy is not None and copy.nbytes > most:
                most = copy.nbytes
        return most

    @property
    def logits_bytes(self) -> int:
        """Bytes of logits of the copy that has the most."""
        return max((copy.logits_bytes for copy in self.copies if copy is not None), default=0)

    @property
    def density(self) -> float:
        """What a byte of it keeps, see policy; 0 for a placeholder."""
        if not self.tiers:
            return 0.0
        return policy.density(self.seconds, self.nbytes)

    @property
    def level(self) -> float:
        """Its heat, see policy.heat_at."""
        return self.rank - self.density

    @property
    def forks(self) -> int:
        """How many blocks of rows continue it."""
        return self.below[ALL] - (self.state is not None)
