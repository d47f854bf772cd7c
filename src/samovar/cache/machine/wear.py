"""A cap on what is written to flash in a day, that restarts do not lift.

Counted by the hour, over the 24 hours that end now, in a small file beside the blocks. A crash
forgets the writes since the last saving, at most an hour's; two processes on one directory have a
cap each.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

_HOUR = 3600.0
_HOURS = 24
_MOST_TEXT = 2**16  # what is longer was not written here

logger = logging.getLogger(__name__)


class Wear:
    """Bytes written in the last day, and how many may be."""

    def __init__(self, path: Path, limit: int, clock: Callable[[], float]) -> None:
        self._path = path
        self._limit = limit
        self._clock = clock
        self._hours = _read(path)
        self._saved_hour = self._hour()

    @property
    def left(self) -> int:
        """Bytes that may still be written now."""
        oldest = self._hour() - _HOURS
        # What claims to be of the future was counted under another clock, and counts as now.
        self._hours = {hour: count for hour, count in self._hours.items() if hour > oldest}
        return self._limit - sum(self._hours.values())

    def record(self, nbytes: int) -> bool:
        """So much was written. Whether it is time to save."""
        hour = self._hour()
        self._hours[hour] = self._hours.get(hour, 0) + nbytes
        return hour != self._saved_hour

    def save(self) -> None:
        """Write the counts down; what goes wrong costs a restart's memory and nothing else."""
        self._saved_hour = self._hour()
        text = json.dumps({str(hour): count for hour, count in self._hours.items()})
        try:
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".written-")
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(text)
                Path(name).replace(self._path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as error:
            logger.warning("what was written today cannot be noted: %s", error)

    def _hour(self) -> int:
        return int(self._clock() // _HOUR)


def _read(path: Path) -> dict[int, int]:
    """The counts by hour; none where the file is missing or is not one of ours."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MOST_TEXT))
        return {int(hour): max(0, int(count)) for hour, count in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
