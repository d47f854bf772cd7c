"""What a worker's process finds in its environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from samovar.ipc.logs import LEVEL

# libgomp spins 300,000 rounds at a barrier before it sleeps, and a hundred while it has more
# threads than there are cores, which is how a worker keeps its threads from spinning in company
# (see native.waiting). Told to be passive it does not spin at all then, and given a number of
# rounds as well it spins as usual otherwise (initialize_env in its env.c).
_WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "300000"}


def worker_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, from which level on its log is heard, and how threads wait.

    Who has said how threads wait knows better.
    """
    found = dict(os.environ if environment is None else environment)
    found[LEVEL] = str(logging.getLogger("samovar").getEffectiveLevel())
    if not _WAITING.keys() & found.keys():
        found |= _WAITING
    return found
