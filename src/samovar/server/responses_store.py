"""Responses that can be asked for after they were given: in memory, the latest of every tenant.

    running ──end──> kept, under MAX_KEPT and MAX_BYTES ──> the oldest of the largest tenant goes

What one tenant keeps, no other sees; and who keeps the most loses first, so that nobody's
responses are pushed out by somebody else's as long as they are fewer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec

from samovar.api.openai.responses.items import Item
from samovar.api.openai.responses.turn import Turn
from samovar.types import Burst, Event

MAX_KEPT = 4096  # responses: more than the clients of one machine come back to
MAX_BYTES = (
    2**26
)  # as JSON; conversations that share their beginning count it each, and hold it once

_PIECE_BYTES = 128  # of an id and its text, as Python holds them


@dataclass(slots=True, eq=False)
class Answer:
    """A response and what it answers."""

    tenant: str
    model: str
    turn: Turn
    context: tuple[Item, ...]
    is_kept: bool
    events: list[Event] | None = None
    """What came, for who listens later; None: who asked listens."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    """What listens where nobody else does."""
    size: int = 0
    """Bytes, once it is kept."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def response_id(self) -> str:
        """Its id."""
        return self.turn.head.response_id

    @property
    def key(self) -> tuple[str, str]:
        """By which it is found."""
        return self.tenant, self.response_id

    def conversation(self) -> tuple[Item, ...]:
        """What the next request continues."""
        return (*self.context, *self.turn.output())

    def take(self, burst: Burst) -> None:
        """Something came, and whoever follows is told."""
        for event in burst:
            self.turn.feed(event)
        if self.events is not None:
            self.events += burst
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def follow(self) -> AsyncIterator[Burst]:
        """Everything that came and comes."""
        position = 0
        assert self.events is not None
        while True:
            news = self._news
            if position < len(self.events):
                burst = self.events[position:]
                position += len(burst)
                yield burst
            if self.turn.is_over:
                return
            await news.wait()


class Answers:
    """The responses of a server."""

    def __init__(self, max_kept: int = MAX_KEPT, max_bytes: int = MAX_BYTES) -> None:
        self._limits = max_kept, max_bytes
        self._running: dict[tuple[str, str], Answer] = {}
        self._kept: dict[str, dict[str, Answer]] = {}
        """By tenant and id, oldest first."""
        self._bytes: dict[str, int] = {}
        self._items: dict[tuple[str, str], tuple[Item, int]] = {}
        """By tenant and id: items, and how many of the kept responses have them."""

    def get(self, tenant: str, response_id: str) -> Answer | None:
        """A response that runs or is kept; None: there is none for this tenant."""
        running = self._running.get((tenant, response_id))
        return running or self._kept.get(tenant, {}).get(response_id)

    def item(self, tenant: str, item_id: str) -> Item | None:
        """An item of a kept response."""
        found = self._items.get((tenant, item_id))
        return None if found is None else found[0]

    def num_background(self, tenant: str) -> int:
        """How many of a tenant's run that nobody waits for."""
        running = self._running.values()
        return sum(one.task is not None and one.tenant == tenant for one in running)

    @property
    def num_kept(self) -> int:
        """How many are kept."""
        return sum(map(len, self._kept.values()))

    # ---- running ------------------------------------------------------------------------------

    async def watched(self, answer: Answer, bursts: AsyncIterator[Burst]) -> AsyncIterator[Burst]:
        """The same events, while which the response can be found and cancelled."""
        self._running[answer.key] = answer
        try:
            async with aclosing(bursts) as stream:  # type: ignore[type-var]
                async for burst in stream:
                    yield burst
        finally:
            self.end(answer)

    def run(self, answer: Answer, task: asyncio.Task[None]) -> None:
        """Run one that nobody waits for."""
        answer.task = task
        self._running[answer.key] = answer

    def end(self, answer: Answer) -> None:
        """It does not run any more."""
        self._running.pop(answer.key, None)
        answer.over.set()

    async def close(self) -> None:
        """End what nobody waits for."""
        tasks = [one.task for one in self._running.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- kept ---------------------------------------------------------------------------------

    def keep(self, answer: Answer) -> None:
        """Keep one that has ended, unless it was not to be."""
        if not answer.is_kept or answer.response_id in self._kept.get(answer.tenant, {}):
            return
        told = _encode([answer.context, answer.turn.response(), answer.events])
        answer.size = len(told) + _PIECE_BYTES * len(answer.turn.pieces)
        self._kept.setdefault(answer.tenant, {})[answer.response_id] = answer
        self._bytes[answer.tenant] = self._bytes.get(answer.tenant, 0) + answer.size
        for item in answer.conversation():
            key = answer.tenant, item["id"]
            _, uses = self._items.get(key, (item, 0))
            self._items[key] = item, uses + 1
        self._shrink()

    def forget(self, answer: Answer) -> None:
        """Keep it no longer."""
        answer.is_kept = False
        kept = self._kept.get(answer.tenant, {})
        if kept.pop(answer.response_id, None) is None:
            return
        self._bytes[answer.tenant] -= answer.size
        if not kept:
            del self._kept[answer.tenant], self._bytes[answer.tenant]
        for item in answer.conversation():
            key = answer.tenant, item["id"]
            found, uses = self._items.pop(key)
            if uses > 1:
                self._items[key] = found, uses - 1

    def _shrink(self) -> None:
        max_kept, max_bytes = self._limits
        while sum(self._bytes.values()) > max_bytes:
            self._drop_oldest(max(self._bytes, key=self._bytes.__getitem__))
        while self.num_kept > max_kept:
            self._drop_oldest(max(self._kept, key=lambda tenant: len(self._kept[tenant])))

    def _drop_oldest(self, tenant: str) -> None:
        self.forget(next(iter(self._kept[tenant].values())))


_encode = msgspec.json.Encoder().encode
