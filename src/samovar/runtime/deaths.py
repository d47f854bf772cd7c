"""How often a model's workers died lately, and how long to wait before there is another one."""

from __future__ import annotations

import math
from collections import deque

from samovar.config import RuntimeConfig


def backoff(config: RuntimeConfig, deaths: int) -> float:
    """Seconds before a worker is started again that died so many times within the window."""
    most = math.log2(max(1.0, config.most_backoff / max(config.first_backoff, 1e-9)))
    return min(config.first_backoff * 2 ** min(deaths - 1, most + 1), config.most_backoff)


class Deaths:
    """The deaths within `restart_window`."""

    def __init__(self, config: RuntimeConfig) -> None:
        self._config = config
        self._times: deque[float] = deque()

    def __len__(self) -> int:
        return len(self._times)

    def count(self, now: float) -> bool:
        """One more. Whether a worker may be started again, or it were too many."""
        self._times.append(now)
        while self._times[0] < now - self._config.restart_window:
            self._times.popleft()
        return len(self._times) <= self._config.restarts

    @property
    def pause(self) -> float:
        """Seconds before the next start."""
        return backoff(self._config, len(self._times))
