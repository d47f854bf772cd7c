"""When whoever writes to clients hears of what came: the more of them, the less often each.

To send a packet is a third of what is done for a token, and its client is woken by it. So the
streams of a model hear of news PACKETS times a second in all, and never later than MOST_SECONDS
after it: a few hear of each token at once, a hundred of some tokens together, which no reader can
tell. What comes first of a request never waits, nor its first token, nor its last event.
"""

from __future__ import annotations

import asyncio

from samovar.runtime.ticket import Ticket

PACKETS = 2000
"""A second: some percent of a core."""
MOST_SECONDS = 0.05
"""Twenty times a second is a steady flow to the eye, and a tenth of what the web calls instant."""


class Pacing:
    """The requests of one model. For one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._held: list[Ticket] = []
        """Who was not told yet of what came."""
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, ticket: Ticket, streams: int) -> None:
        """Something came for one of so many streams."""
        fetched_at = ticket.fetched_at
        if fetched_at is not None and ticket.is_paced and not ticket.is_over:
            wait = fetched_at + min(MOST_SECONDS, streams / PACKETS) - self._loop.time()
            if wait > 0:
                self._held.append(ticket)
                if self._timer is None:
                    self._timer = self._loop.call_later(wait, self._release)
                return
        ticket.wake()

    def _release(self) -> None:
        """Those who have waited less are told as well: one timer, and one look at everybody."""
        self._timer = None
        held, self._held = self._held, []
        for ticket in held:
            ticket.wake()
