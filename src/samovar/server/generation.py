"""The events of one request to a model: taken one burst after the other, or pushed as they come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from samovar.errors import SamovarError
from samovar.runtime.ticket import Sink, Ticket
from samovar.server.observing import Watch
from samovar.types import Burst


class Generation:
    """An asynchronous iterator; the last event of the last burst is terminal. `aclose` after use.

    Nothing is asked before something is taken. Taking raises what asking raises.
    """

    def __init__(
        self,
        submit: Callable[[], Awaitable[Ticket]],
        watch: Callable[[], Watch],
        on_closed: Callable[[], None] | None = None,
    ) -> None:
        self._submit = submit
        self._watch = watch
        self._on_closed = on_closed
        self._begun: tuple[Ticket, Watch] | None = None

    def __aiter__(self) -> Generation:
        """Itself: what was taken does not come again."""
        return self

    async def __anext__(self) -> Burst:
        """What came since the last time, as soon as that is something."""
        ticket, watch = self._begun or await self._begin()
        if ticket.is_done:
            raise StopAsyncIteration
        burst = await ticket.fetch()
        watch.see(burst)
        return burst

    async def push(self, sink: Sink) -> None:
        """Give a sink what comes, until it says False or nothing follows. Raises what it raises."""
        ticket, watch = self._begun or await self._begin()
        if ticket.is_done:
            return

        def see_and_give(burst: Burst) -> bool:
            watch.see(burst)
            return sink(burst)

        await ticket.push(see_and_give)

    async def aclose(self) -> None:
        """Nobody takes any more: what is not over is cancelled."""
        if self._begun is not None:
            ticket, watch = self._begun
            ticket.close()
            watch.leave()
        if self._on_closed is not None:
            self._on_closed()

    async def _begin(self) -> tuple[Ticket, Watch]:
        watch = self._watch()
        try:
            ticket = await self._submit()
        except SamovarError as error:
            watch.fail(error.code)
            raise
        except BaseException:
            watch.leave()
            raise
        self._begun = ticket, watch
        return self._begun
