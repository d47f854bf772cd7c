"""Who waits, and who is next: priorities, and fair shares between tenants.

A tenant's counter goes up with what is computed for it; the one with the lowest goes next, and
one that comes back after a pause starts at the level of those that are active, so that it cannot
save up (Sheng et al., "Fairness in serving large language models", OSDI 2024: virtual token
counters). Within a tenant the oldest goes first. A higher priority goes before all that, and
waiting raises it, so that nobody waits for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from samovar.engine.sequence import Sequence

GENERATED_WEIGHT = 2.0  # a decoded token costs more than a prefilled one; the paper's own value
SECONDS_PER_PRIORITY = 30.0  # of waiting raise the priority by one: longer than most requests run


@dataclass(slots=True)
class Tenants:
    """What has been computed for each tenant, as far as it matters for who is next."""

    _served: dict[str, float] = field(default_factory=dict)
    _active: dict[str, int] = field(default_factory=dict)
    """Tenant -> sequences that wait or run."""

    def enter(self, tenant: str) -> None:
        """A sequence of the tenant came."""
        if tenant not in self._active:
            level = min((self._served[other] for other in self._active), default=0.0)
            self._served[tenant] = max(self._served.get(tenant, 0.0), level)
            self._active[tenant] = 0
        self._active[tenant] += 1

    def leave(self, tenant: str) -> None:
        """A sequence of the tenant ended."""
        self._active[tenant] -= 1
        if not self._active[tenant]:
            del self._active[tenant]
            self._forget_below_the_level()

    def charge(self, tenant: str, cost: float) -> None:
        """So much was computed for the tenant."""
        self._served[tenant] = self._served.get(tenant, 0.0) + cost

    def served(self, tenant: str) -> float:
        """How much so far; only comparisons mean anything."""
        return self._served.get(tenant, 0.0)

    def _forget_below_the_level(self) -> None:
        """Counters that a return would lift anyway need no memory: tenants come and go."""
        level = min((self._served[tenant] for tenant in self._active), default=float("inf"))
        for tenant in [t for t, v in self._served.items() if t not in self._active and v <= level]:
            del self._served[tenant]


class WaitingLine:
    """The sequences that wait for cells. Bounded by whoever adds to it."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._waiting: dict[Sequence, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._waiting

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """It waits from now on."""
        self._waiting[sequence] = None

    def remove(self, sequence: Sequence) -> None:
        """It waits no longer."""
        del self._waiting[sequence]

    def in_order(self, now: float) -> list[Sequence]:
        """All of them, the next one first."""
        return sorted(self._waiting, key=lambda one: self._rank(one, now))

    def _rank(self, sequence: Sequence, now: float) -> tuple[float, float, int]:
        waited = max(0.0, now - sequence.clock.submitted)
        priority = sequence.request.priority + int(waited / SECONDS_PER_PRIORITY)
        return (-priority, self._tenants.served(sequence.request.tenant), sequence.order)
