"""A process that uses a namespace.

    python -m tests.cache.lodger ROOT NUMBER stays    opens it, and closes it at the end of input
    python -m tests.cache.lodger ROOT NUMBER comes    opens, fills and closes it, until then

Prints a line when it has it open; `comes` prints one for each time, with how many blocks were not
there for it: none, if nobody deletes what is in use.
"""

from __future__ import annotations

import select
import sys
from pathlib import Path

from samovar.cache.block import BadBlock
from samovar.cache.files.names import name_of
from samovar.cache.files.tier import Missing
from samovar.cache.house import HousedTier, lodge
from samovar.cache.keys import Namespace
from tests.cache.directories import PLENTY, chain


def space(number: int) -> Namespace:
    """One of several namespaces."""
    return Namespace({"model": f"model {number}"})


def lodged(root: Path, number: int, total: int = PLENTY) -> HousedTier:
    """Its directory, open."""
    tier = lodge(root, space(number), total, is_durable=False)
    tier.open()
    return tier


def _come(root: Path, number: int) -> None:
    turn = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        tier, turn = lodged(root, number), turn + 1
        blocks = chain(3, 500, seed=turn, namespace=space(number))
        lost = len(tier.publish(blocks).refused)
        for block in blocks:
            try:
                tier.read(name_of(block.head), space(number).digest)
            except (Missing, BadBlock):
                lost += 1
        tier.close()
        print(lost, flush=True)  # noqa: T201


def main(root: str, number: str, how: str) -> None:
    """See above."""
    if how == "comes":
        _come(Path(root), int(number))
        return
    tier = lodged(Path(root), int(number))
    print("open", flush=True)  # noqa: T201
    sys.stdin.read()
    tier.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
