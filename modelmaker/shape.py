"""Shapes: how many layers, how wide, how many heads a made model has.

`tiny` is for tests. The others have the proportions of real llama models of that size and are
meant for measuring speed, so that every matrix is as long and as wide as in a model people run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The sizes of a model.

    Every width is a multiple of 32, the block length of Q4_0 and Q8_0, and of the tile sizes
    below which llama.cpp leaves its repacked and AMX matrix products for the plain ones.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    context_length: int
    vocabulary_size: int
    """Size of the synthetic vocabulary, used when no other vocabulary is asked for."""
    tied: bool = False
    """Whether the output matrix is the embedding matrix (llama only, the other kinds always)."""

    @property
    def head_width(self) -> int:
        """Length of one head's vectors."""
        return self.width // self.heads

    @property
    def kv_width(self) -> int:
        """Length of a token's keys (or values) over all heads."""
        return self.head_width * self.kv_heads


TINY = "tiny"

SHAPES: dict[str, Shape] = {
    TINY: Shape(
        layers=4, width=128, heads=4, kv_heads=2, feed_forward=256,
        context_length=2048, vocabulary_size=512,
    ),
    "small": Shape(
        layers=12, width=768, heads=12, kv_heads=4, feed_forward=2048,
        context_length=8192, vocabulary_size=32000,
    ),
    "1b": Shape(
        layers=22, width=2048, heads=32, kv_heads=4, feed_forward=5632,
        context_length=8192, vocabulary_size=32000,
    ),
    "1b-128k": Shape(
        layers=16, width=2048, heads=32, kv_heads=8, feed_forward=8192,
        context_length=8192, vocabulary_size=128256, tied=True,
    ),
}  # fmt: skip


def shape_named(name: str) -> Shape:
    """The shape of that name; ValueError names the known ones."""
    if name not in SHAPES:
        raise ValueError(f"unknown shape {name!r}, expected one of {', '.join(SHAPES)}")
    return SHAPES[name]
