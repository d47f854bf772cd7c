"""Blocks that are held for one restoration while they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from samovar.cache.block import Block
from samovar.cache.index.node import Node, Tier


@dataclass(slots=True, eq=False)
class Lease:
    """The blocks that a prompt begins with, on their way. Leaving it gives them back.

    None of them is evicted before. Use it as a context manager, or call `close`.
    """

    nodes: tuple[Node, ...]
    """Rows that follow each other from position 0 on, then at most one state."""
    release: Callable[[Lease], None]
    blocks: list[Block | None] = field(default_factory=list)
    """What has arrived of them, by place."""
    tiers: list[Tier | None] = field(default_factory=list)
    """Where each came from."""
    cut: int | None = None
    """The first of `nodes` that will not come; None: all will, as far as is known."""
    is_closed: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will come that could be used."""
        end = len(self.nodes) if self.cut is None else self.cut
        return all(block is not None for block in self.blocks[:end])

    @property
    def is_whole(self) -> bool:
        """Whether every block came."""
        return self.cut is None and self.is_complete

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
