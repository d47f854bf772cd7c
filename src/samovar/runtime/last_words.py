"""What a worker writes to its standard error: the last of it is kept, and nothing waits for it.

The pipe is ours and not asyncio's, which would not report the end of a process before everybody who
has inherited its pipe is gone as well.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable

_LINES = 200  # a dump of all stacks and what came before it
_READ = 2**16
_MAX_LINE = 2000  # characters of a line that anyone reads


class LastWords:
    """Reads one process's standard error on the event loop until it is closed.

    `on_line` hears every line when it comes.
    """

    def __init__(self, on_line: Callable[[str], None] = lambda _: None) -> None:
        self._on_line = on_line
        self.lines: deque[str] = deque(maxlen=_LINES)
        self._rest = b""
        self._reader, self.writer = os.pipe()
        self._is_closed = False
        os.set_blocking(self._reader, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reader, self._read)

    def hand_over(self) -> None:
        """The process has its end: ours is closed, so that its death is the end of the pipe."""
        os.close(self.writer)

    def close(self) -> None:
        """Take what was written so far, and read no more. Idempotent."""
        if self._is_closed:
            return
        while self._read():
            pass
        self._end()

    def _read(self) -> bool:
        """Take something; whether there may be more."""
        if self._is_closed:
            return False
        try:
            data = os.read(self._reader, _READ)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            self._end()
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._take(lines)
        if len(self._rest) > _MAX_LINE:
            self._take([self._rest])
            self._rest = b""
        return True

    def _take(self, lines: Iterable[bytes]) -> None:
        for line in map(_text, lines):
            self.lines.append(line)
            self._on_line(line)

    def _end(self) -> None:
        self._is_closed = True
        if self._rest:
            self._take([self._rest])
        self._loop.remove_reader(self._reader)
        os.close(self._reader)


def _text(line: bytes) -> str:
    return line[:_MAX_LINE].decode("utf-8", "replace").rstrip()
