"""Blocks that are held for one restoration while they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

import numpy as np

from samovar.cache.block import Block, Head
from samovar.cache.index.node import Node, Tier


class Rows(Protocol):
    """Memory in which the rows of blocks are put together."""

    def places(self, start: int, end: int) -> Sequence[np.ndarray]:
        """Where the payload of the rows of these positions belongs, in its order: bytes each."""


@dataclass(slots=True, eq=False)
class Lease:
    """The blocks that a prompt begins with, on their way. Leaving it gives them back.

    None of them is evicted before. Use it as a context manager, or call `close`.
    """

    nodes: tuple[Node, ...]
    """Rows that follow each other from position 0 on, then at most one state."""
    release: Callable[[Lease], None]
    blocks: list[Block | None] = field(init=False)
    """What has arrived of them, by place."""
    tiers: list[Tier | None] = field(init=False)
    """Where each came from."""
    cut: int | None = None
    """The first of `nodes` that will not come; None: all will, as far as is known."""
    apart: list[Head | None] = field(init=False)
    """Of those whose payload is where it was wanted, verified. As blocks they come later."""
    is_closed: bool = False

    def __post_init__(self) -> None:
        count = len(self.nodes)
        self.blocks, self.tiers, self.apart = [None] * count, [None] * count, [None] * count

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will come that could be used."""
        if self.cut is None:
            return None not in self.heads
        return None not in self.blocks[: self.cut]

    @property
    def is_whole(self) -> bool:
        """Whether every block came, as one or apart."""
        return self.cut is None and self.is_complete

    @property
    def heads(self) -> list[Head | None]:
        """Of what has arrived, by place."""
        return [
            apart if block is None else block.head
            for block, apart in zip(self.blocks, self.apart, strict=True)
        ]

    def run(self) -> Sequence[Block]:
        """The blocks that came, up to the first that did not."""
        found: list[Block] = []
        for block in self.blocks:
            if block is None:
                break
            found.append(block)
        return found

    def close(self) -> None:
        """Give the blocks back. Idempotent."""
        if not self.is_closed:
            self.is_closed = True
            self.release(self)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
