"""A model that is being loaded, and those who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from samovar.ipc.messages import Ready


class Loading:
    """One loading for many: who leaves does not end it for the others, the last one does."""

    def __init__(
        self, load: Coroutine[Any, Any, Ready], on_end: Callable[[Loading], object]
    ) -> None:
        self._on_end = on_end
        self._task = asyncio.get_running_loop().create_task(load)
        self._task.add_done_callback(lambda _: on_end(self))
        self._num_waiting = 0

    async def wait(self) -> Ready:
        """What it comes to. Raises what loading raises, for each who waits a new one."""
        self._num_waiting += 1
        try:
            await asyncio.wait({self._task})
        finally:
            self._num_waiting -= 1
            if not self._num_waiting and not self._task.done():
                self._on_end(self)  # now: ending takes a while, and whoever comes then begins anew
                self._task.cancel()
        if self._task.cancelled():
            raise asyncio.CancelledError
        error = self._task.exception()
        if error is None:
            return self._task.result()
        raise type(error)(*error.args) from error
