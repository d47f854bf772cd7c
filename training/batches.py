"""The corpus as batches of ids, one step of training after the other.

A sequence is one document from its start, as at inference: no packing, so nothing attends to a
stranger's text, and short sequences cost little attention. A step's documents are sorted by
length into batches, so that there is little padding, and their gradients are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.corpus.document import Document, segments
from training.corpus.mixture import document

IGNORED = -100
"""The target of a token that is not to be predicted."""

_BATCH_TOKENS = 2048
"""Padding included: the activations of a layer then still fit into a core's cache."""


@dataclass(frozen=True)
class Example:
    """The ids of a document and which of them are to be predicted."""

    category: str
    ids: list[int]
    is_learnt: list[bool]


@dataclass(frozen=True)
class Batch:
    """Sequences of similar length: ids, next ids or IGNORED, and how much each token counts."""

    ids: Tensor
    targets: Tensor
    weights: Tensor
    categories: list[str]


def example(tokenizer: Tokenizer, made: Document, context: int) -> Example:
    """Its segments are encoded one by one: generation continues ids, not text."""
    ids: list[int] = []
    is_learnt: list[bool] = []
    for segment in segments(made):
        found = tokenizer.encode(segment.text, add_special_tokens=False).ids
        ids += found
        is_learnt += [segment.is_learnt] * len(found)
    return Example(made.category, ids[: context + 1], is_learnt[: context + 1])


class Corpus:
    """The stream of a seed's examples, each changed first. `position` is all its state."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        seed: int,
        context: int,
        *,
        change: Callable[[Document], Document] = lambda made: made,
    ) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.context = context
        self.change = change
        self.position = 0

    def step(self, tokens: int) -> list[Batch]:
        """The next documents of about that many tokens in all."""
        examples: list[Example] = []
        total = 0
        while total < tokens:
            made = self.change(document(self.seed, self.position))
            self.position += 1
            examples.append(example(self.tokenizer, made, self.context))
            total += len(examples[-1].ids)
        return list(_batches(sorted(examples, key=lambda one: len(one.ids))))


def _batches(examples: list[Example]) -> Iterator[Batch]:
    """Neighbours together, as many as fit."""
    start = 0
    for end in range(1, len(examples) + 1):
        following = examples[end] if end < len(examples) else None
        rows = end + 1 - start
        if following is None or rows * len(following.ids) > _BATCH_TOKENS:
            yield _padded(examples[start:end])
            start = end


def _padded(examples: list[Example]) -> Batch:
    length = max(len(one.ids) for one in examples) - 1
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    targets = torch.full((len(examples), length), IGNORED)
    weights = torch.zeros(len(examples), length)
    for row, one in enumerate(examples):
        count = len(one.ids) - 1
        ids[row, :count] = torch.tensor(one.ids[:-1])
        learnt = torch.tensor(one.is_learnt[1:])
        targets[row, :count] = torch.tensor(one.ids[1:]).masked_fill(~learnt, IGNORED)
        # Between every token the same and every document the same: else stories, which are easy
        # and long, would drown the few tokens of a sum or a call.
        weights[row, :count] = learnt.float() * max(1, sum(one.is_learnt)) ** -0.5
    return Batch(ids, targets, weights, [one.category for one in examples])
