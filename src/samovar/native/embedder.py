"""Embeddings: a context of their own, so that they leave no trace in the one that generates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from samovar.errors import (
    ContextOverflow,
    DecodeTimeout,
    InvalidToken,
    OperationUnsupported,
)
from samovar.native import checks
from samovar.native.context import Context, ContextOptions
from samovar.native.handle import Handle
from samovar.native.interface import Aborted, NoRoom
from samovar.native.model import Model

_LEAST = 512  # a context is made for at least this many tokens, then for twice as many each time


class Embedder:
    """Turns tokens into one vector. Contexts are made on first use and kept per pooling."""

    def __init__(self, model: Model, options: ContextOptions) -> None:
        self._model = model
        self._options = options
        self._contexts: dict[str, Context] = {}
        self._adapters: list[tuple[Handle, float]] = []

    def embed(self, tokens: Sequence[int], *, pooling: str | None = None) -> np.ndarray:
        """The embedding of `tokens`: float32, as long as the model's output width, not normalised.

        `pooling` is mean, cls or last; None: the file's own, else the last token's vector.
        Raises InvalidToken, ContextOverflow, OperationUnsupported.
        """
        checks.check_pooling(pooling)
        if not tokens:
            raise InvalidToken("there is nothing to embed: the text has no tokens")
        self._model.vocabulary.check(tokens)
        limit = self._options.context_length or self._model.trained_context
        if len(tokens) > limit:
            raise ContextOverflow(f"{len(tokens)} tokens to embed, the model sees {limit}; split")
        return self._run(self._context(pooling or self._own_pooling(), len(tokens)), tokens)

    def set_adapters(self, adapters: list[tuple[Handle, float]]) -> None:
        """Replace the attached set, in the contexts that there are and in those to come."""
        for context in self._contexts.values():
            context.set_adapters(adapters)
        self._adapters = adapters

    def close(self) -> None:
        """Free the contexts. Idempotent."""
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()

    def _own_pooling(self) -> str:
        """What the file asks for; without a word, the last token: as the reference does."""
        stored = self._model.header.pooling
        if stored == "rank":
            raise OperationUnsupported("this model ranks texts; name a pooling to embed with it")
        return stored if stored in checks.POOLINGS else "last"

    def _context(self, pooling: str, count: int) -> Context:
        found = self._contexts.get(pooling)
        if found is not None and found.batch_size >= count:
            return found
        if found is not None:
            self._contexts.pop(pooling).close()
        size = _LEAST
        while size < count:
            size *= 2
        size = min(size, max(count, self._options.context_length or self._model.trained_context))
        # One micro-batch: pooling does not reach across two, and encoders abort on a second.
        options = replace(
            self._options,
            context_length=size,
            batch_size=size,
            micro_batch_size=size,
            num_sequences=1,
            layout="lanes",
            pooling=pooling,
            embeddings=True,
        )
        made = Context(self._model, options)
        made.set_adapters(self._adapters)
        self._contexts[pooling] = made
        return made

    def _run(self, context: Context, tokens: Sequence[int]) -> np.ndarray:
        batch = context.batch
        batch.clear()
        for position, token in enumerate(tokens):
            batch.add_one(0, token, position)
        outcome = context.decode(batch)
        try:
            if isinstance(outcome, Aborted):
                raise DecodeTimeout("embedding took too long and was interrupted; send less text")
            if isinstance(outcome, NoRoom):
                raise ContextOverflow("the text to embed does not fit into the context")
            return context.embedding(seq_id=0)
        finally:
            if context.has_memory:
                context.clear()
