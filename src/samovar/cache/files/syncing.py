"""Several files brought to the device at once.

Each sync waits for a commit of the file system's journal and for the device to empty its cache.
Those that run at the same time share both: for 32 files, a third of the time that they take one
after the other. The threads live no longer than the call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from samovar.cache.files.io import Io

_AT_ONCE = 8  # more gain nothing


def sync_all(io: Io, fds: Sequence[int]) -> list[OSError | None]:
    """Sync (fdatasync) files; for each, in order, what went wrong."""
    outcomes: list[OSError | None] = [None] * len(fds)
    left = deque(range(len(fds)))

    def work() -> None:
        with suppress(IndexError):
            while True:
                place = left.popleft()
                try:
                    io.fdatasync(fds[place])
                except OSError as error:
                    outcomes[place] = error

    threads = [
        threading.Thread(target=work, name="samovar-sync", daemon=True)
        for _ in range(min(_AT_ONCE, len(fds)) - 1)
    ]
    started = []
    with suppress(RuntimeError):  # none can be started, as when Python ends: this one does it all
        for thread in threads:
            thread.start()
            started.append(thread)
    work()
    for thread in started:
        thread.join()
    return outcomes
