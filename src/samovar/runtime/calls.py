"""Questions that a worker has not answered yet."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from samovar.errors import SamovarError, from_code
from samovar.ipc import messages as ipc


class Calls:
    """Each question has a number, and its answer comes once. For one event loop."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    async def ask(
        self, send: Callable[[ipc.Command], None], operation: str, arguments: dict[str, Any]
    ) -> Any:  # noqa: ANN401 - as many kinds as operations
        """The answer. Raises the error that is the answer, and what `lose` is told."""
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[number] = future
        try:
            send(ipc.Call(number, operation, arguments))
            return await future
        finally:
            self._open.pop(number, None)

    def take(self, answer: ipc.Answer) -> None:
        """An answer has come; perhaps nobody waits for it any more."""
        future = self._open.get(answer.call_id)
        if future is None or future.done():
            return
        if answer.code is None:
            future.set_result(answer.value)
        else:
            future.set_exception(from_code(answer.code, answer.message))

    def lose(self, make: Callable[[], SamovarError]) -> None:
        """Nobody answers any more: whoever waits gets an error of their own."""
        for future in self._open.values():
            if not future.done():
                future.set_exception(make())
