"""A process that publishes as fast as it can into a directory that others use too.

    python -m tests.cache.publisher ROOT SEED BUDGET GROUPS

Prints a line of JSON for each group as soon as it is published: the names that were reported
durable, the causes of refusals, and the most bytes that the directory took so far, measured
whenever that might have grown, with the lock held. GROUPS 0: until it is killed. Half of the
groups are the same for every seed.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections import deque
from pathlib import Path

from samovar.cache.files.names import Name
from tests.cache.directories import Watched, chain, measured, names, tier

NBYTES = 30_000


def main(root: str, seed: str, budget: str, groups: str) -> None:
    """See above."""
    chance, most = random.Random(seed), [0]
    io = Watched()
    files = tier(Path(root), budget=int(budget), io=io)
    files.open()

    def measure(call: str, _: object) -> None:
        if call in ("writev", "link", "rename", "unlink"):
            most[0] = max(most[0], measured(files.path))

    if int(groups):
        io.after = measure
    mine: deque[Name] = deque()
    for number in range(int(groups)) if int(groups) else itertools.count():
        of = f"{'all' if chance.random() < 0.5 else seed} {number}"
        shape = random.Random(of)
        blocks = chain(shape.randrange(1, 9), shape.randrange(1, NBYTES), seed=of)
        published = files.publish(blocks, evict=list(mine))
        done = [entry.name for entry in published.done]
        gone = set(published.evicted)
        mine = deque(name for name in mine if name not in gone)
        mine.extend(done[::-1])
        assert {*done} | {*names([each.block for each in published.refused])} == {*names(blocks)}
        report = {
            "done": [str(name) for name in done],
            "evicted": [str(name) for name in published.evicted],
            "refused": sorted({refusal.cause for refusal in published.refused}),
            "most": most[0],
        }
        print(json.dumps(report), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
