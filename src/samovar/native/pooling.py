"""One context that pools, and the passage that is half computed in it.

Several passages are computed in one call, each as a sequence of its own. A call is one
micro-batch: llama.cpp pools within each and keeps what the last one gave. So of a passage that goes
through several calls the results are put together here, which is possible where the model reads
forwards only: the mean from the means, the first token from the first call, the last from the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import llama_cpp.llama_cpp as ll
import numpy as np

from samovar.errors import ContextOverflow, DecodeTimeout, NativeError
from samovar.native.context import Context
from samovar.native.handle import Handle
from samovar.native.interface import RANK, Aborted, NoRoom, Passage
from samovar.native.passages import Portion, Room, portions, restart

Adapters = list[tuple[Handle, float]]


class PoolingContext:
    """Computes passages in a context that was made for one pooling. It owns the context."""

    def __init__(self, context: Context, pooling: str) -> None:
        self.context = context
        self._pooling = pooling
        self._adapters: Adapters = []
        self._unfinished: Passage | None = None
        self._begun_under: Adapters = []
        self.room = Room(
            context.batch_size,
            context.num_cells,
            context.num_sequences,
            can_cut=reads_forwards(context),
        )

    def set_adapters(self, adapters: Adapters) -> None:
        """Compute under this set from now on; what was begun under another begins anew."""
        self.context.set_adapters(adapters)
        self._adapters = adapters

    def close(self) -> None:
        """Free the context. Idempotent."""
        self.context.close()

    def advance(self, passages: Sequence[Passage], limit: int) -> int:
        """See Embedder. One decode call; returns how many tokens it computed."""
        self._begin(passages)
        taken = portions(passages, limit, self.room)
        try:
            self._decode(taken)
            found = [self._pooled(seq_id) for seq_id in range(len(taken))]
        except BaseException:  # a signal's, too
            self._clear()
            raise
        for portion, pooled in zip(taken, found, strict=True):
            _take(portion, pooled, self._pooling)
        return sum(portion.count for portion in taken)

    def _begin(self, passages: Sequence[Passage]) -> None:
        """Make sure that the cells are those of the first passage, or nobody's."""
        first = passages[0]
        if first is not self._unfinished or self._begun_under != self._adapters:
            self._clear()
            self._unfinished, self._begun_under = first, self._adapters
            restart(first)
        for passage in passages[1:]:
            restart(passage)

    def _decode(self, taken: list[Portion]) -> None:
        batch = self.context.batch
        batch.clear()
        for seq_id, portion in enumerate(taken):
            start = portion.passage.num_computed
            tokens = portion.passage.tokens[start : start + portion.count]
            batch.add(seq_id, tokens, start, wants_logits=True, wants_each=True)
        outcome = self.context.decode(batch)
        if isinstance(outcome, Aborted):
            raise DecodeTimeout("embedding took too long and was interrupted; send less text")
        if isinstance(outcome, NoRoom):
            raise ContextOverflow("the text to embed does not fit into the context")

    def _pooled(self, seq_id: int) -> np.ndarray:
        found = self._score(seq_id) if self._pooling == RANK else self._vector(seq_id)
        if not np.isfinite(found).all():
            raise NativeError(
                "the model computed no numbers for a text; its weights may be damaged"
            )
        return found

    def _vector(self, seq_id: int) -> np.ndarray:
        return self.context.embedding(seq_id=seq_id)

    def _score(self, seq_id: int) -> np.ndarray:
        # As many floats as the head has labels, of which the first is the score.
        scores = ll.llama_get_embeddings_seq(self.context.handle.pointer, seq_id)
        if not scores:
            raise NativeError("llama.cpp returned no score; is this a reranker?")
        return np.array([scores[0]], np.float32)

    def _clear(self) -> None:
        self._unfinished = None
        if self.context.has_memory and self.context.handle.is_open:
            self.context.clear()


def reads_forwards(context: Context) -> bool:
    """Whether no token sees a later one, so that a text can be computed in several calls."""
    return context.has_memory and bool(ll.llama_get_causal_attn(context.handle.pointer))


def _take(portion: Portion, pooled: np.ndarray, pooling: str) -> None:
    passage, start = portion.passage, portion.passage.num_computed
    finishes = portion.finishes
    if start or not finishes:
        pooled = _joined(passage, pooled, portion.count, pooling)
    passage.num_computed = start + portion.count
    passage.vector = pooled if finishes else None


def _joined(passage: Passage, found: np.ndarray, count: int, pooling: str) -> np.ndarray:
    """What the passage comes to with a call that pooled `count` more of its tokens."""
    before = passage.partial
    if pooling == "mean":
        total = found.astype(np.float64) * count
        passage.partial = total if before is None else before + total
        return (passage.partial / (passage.num_computed + count)).astype(np.float32)
    if pooling == "cls":
        passage.partial = found if before is None else before
        return passage.partial
    return found
