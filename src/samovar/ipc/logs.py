"""A worker's log, in the log of who started it: line by line, over its standard error.

llama.cpp's own lines are of interest to those who look for them: they arrive as INFO at most.
"""

from __future__ import annotations

import logging
import os
import re

LLAMA = "samovar.llama"

FORMAT = "samovar worker: %(levelname)s: %(name)s: %(message)s"
_LINE = re.compile(r"samovar worker: ([A-Z]+): (samovar[\w.]*): (.*)")
LEVEL = "SAMOVAR_WORKER_LOG"  # of the environment: a level of Python's logging, as a number

logger = logging.getLogger(__name__)


def worker_log_level() -> int:
    """From which level on whoever started this process wants to hear; WARNING, if unsaid."""
    said = os.environ.get(LEVEL, "")
    return int(said) if said.isdigit() else logging.WARNING


def hand_on(line: str) -> None:
    """Log a line of a worker's standard error as it was logged there; others as DEBUG."""
    found = _LINE.fullmatch(line)
    if found is None:
        logger.debug("%s", line)
        return
    level = logging.getLevelNamesMapping().get(found[1], logging.INFO)
    if found[2] == LLAMA:
        level = min(level, logging.INFO)
    logging.getLogger(found[2]).log(level, "%s", found[3])
