"""Embeddings and scores: contexts of their own, so that they leave no trace where text is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from samovar import gguf
from samovar.errors import (
    ContextOverflow,
    InvalidToken,
    NativeError,
    OperationUnsupported,
    OutOfMemory,
)
from samovar.native import checks, memory, ranking
from samovar.native.context import Context, ContextOptions
from samovar.native.interface import RANK, Passage, Text
from samovar.native.model import Model
from samovar.native.pooling import Adapters, PoolingContext, reads_forwards

_BATCH = 512  # tokens: more at once are no faster, and each looks at the cells of all others
# An embedding context keeps a row of logits for every token of a call, whether somebody wants them
# or not; of a large vocabulary that is most of its memory.
_LOGIT_BYTES = 2**28
_SEQUENCES = 64  # texts of one call, a power of two: of eight tokens each they fill it
_STATE_BYTES = 2**26  # recurrent states that are held for them
_GIB = 2**30


class LlamaEmbedder:
    """See Embedder. A context is made for each pooling that is asked for, and is kept.

    It grows, by making another one, when a longer text comes: cells only, where a text can be cut
    into calls; else the calls too.
    """

    def __init__(self, model: Model, options: ContextOptions) -> None:
        self._model = model
        self._options = options
        self._contexts: dict[str, PoolingContext] = {}
        self._adapters: Adapters = []
        self._running: Context | None = None
        self.can_cut = True  # until a context says otherwise
        self.longest = options.context_length or model.trained_context
        rows = min(_BATCH, self.longest, _LOGIT_BYTES // (4 * max(1, model.vocabulary.size)))
        self.batch_size = max(rows // _SEQUENCES * _SEQUENCES, min(_SEQUENCES, self.longest))

    # ---- whole texts --------------------------------------------------------------------------

    def embed(self, tokens: Sequence[int], *, pooling: str | None = None) -> np.ndarray:
        """The embedding of `tokens`: float32, as long as the model's output width, not normalised.

        `pooling` is mean, cls or last; None: the file's own, else the last token's vector.
        Raises InvalidRequest, InvalidToken, ContextOverflow, OperationUnsupported, OutOfMemory and
        DecodeTimeout.
        """
        vector: np.ndarray = self.embed_many([tokens], pooling=pooling)[0]
        return vector

    def embed_many(
        self, texts: Sequence[Sequence[int]], *, pooling: str | None = None
    ) -> np.ndarray:
        """One embedding per text, in their order: float32 of (texts, width)."""
        return self._finished(texts, self.pooling_of(pooling), self._model.embedding_width)

    def rank(self, query: Text, documents: Sequence[Text]) -> np.ndarray:
        """The score of each document. Raises what `embed` does."""
        ranking.require_head(self._model)
        return self._finished([self.pair(query, one) for one in documents], RANK, 1)[:, 0]

    def _finished(self, texts: Sequence[Sequence[int]], pooling: str, width: int) -> np.ndarray:
        for tokens in texts:
            self._check(tokens)
        passages = [Passage(tokens) for tokens in texts]
        if passages:
            self.prepare(pooling, max(len(tokens) for tokens in texts))
        while left := [one for one in passages if one.vector is None]:
            self.advance(left, pooling, self.batch_size)
        vectors = [one.vector for one in passages if one.vector is not None]
        return np.array(vectors, np.float32).reshape(len(texts), width)

    def _check(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise InvalidToken("there is nothing to embed: the text has no tokens")
        self._model.vocabulary.check(tokens)

    # ---- passages -----------------------------------------------------------------------------

    def pooling_of(self, pooling: str | None) -> str:
        """See Embedder. Without a word, the last token: as the reference does."""
        checks.check_pooling(pooling)
        stored = self._model.header.pooling
        if pooling is None and stored == RANK:
            raise OperationUnsupported("this model ranks texts; name a pooling to embed with it")
        return pooling or (stored if stored in checks.POOLINGS else "last")

    def pair(self, query: Text, document: Text) -> list[int]:
        """See Embedder."""
        return ranking.pair(self._model, query, document)

    def prepare(self, pooling: str, length: int) -> None:
        """See Embedder. Raises LoadFailed too, where llama.cpp cannot make the context."""
        if length > self.longest:
            raise ContextOverflow(f"{length} tokens to embed, the model sees {self.longest}; split")
        found = self._contexts.get(pooling)
        if found is None or not _holds(found, length):
            if found is not None:
                self._contexts.pop(pooling).close()
            self._contexts[pooling] = self._made(pooling, length)

    def advance(self, passages: Sequence[Passage], pooling: str, limit: int) -> int:
        """See Embedder."""
        self.prepare(pooling, max(len(passage.tokens) for passage in passages))
        pooling_context = self._contexts[pooling]
        self._running = pooling_context.context
        try:
            return pooling_context.advance(passages, limit)
        except NativeError:
            # Cells that hold no numbers spoil whoever is computed beside them, used or not.
            self._contexts.pop(pooling).close()
            raise
        finally:
            self._running = None

    def abort(self) -> None:
        """Interrupt the decode call that is running now, from any thread."""
        running = self._running
        if running is not None:
            running.abort()

    # ---- contexts -----------------------------------------------------------------------------

    def set_adapters(self, adapters: Adapters) -> None:
        """Replace the attached set, in the contexts that there are and in those to come."""
        for context in self._contexts.values():
            context.set_adapters(adapters)
        self._adapters = adapters

    def close(self) -> None:
        """Free the contexts. Idempotent."""
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()

    def _made(self, pooling: str, length: int) -> PoolingContext:
        cells = self.batch_size
        while cells < length:
            cells *= 2
        cells = min(cells, max(length, self.longest))
        made = self._open(pooling, cells, self.batch_size if self.can_cut else cells)
        self.can_cut = reads_forwards(made)
        if made.batch_size < length and not self.can_cut:
            made.close()
            made = self._open(pooling, cells, cells)
        found = PoolingContext(made, pooling)
        found.set_adapters(self._adapters)
        return found

    def _open(self, pooling: str, cells: int, batch: int) -> Context:
        # One micro-batch, because an encoder ends the process at a second one.
        options = replace(
            self._options,
            context_length=cells,
            batch_size=batch,
            micro_batch_size=batch,
            # llama.cpp ends the process at a batch that the number of sequences does not divide.
            num_sequences=math.gcd(batch, _num_sequences(self._model.header)),
            layout="pool",
            pooling=pooling,
            embeddings=True,
        )
        if options.check_memory:
            _require_memory(self._model.header, options)
        return Context(self._model, options)


def _holds(found: PoolingContext, length: int) -> bool:
    room = found.room
    return length <= (room.cells if room.can_cut else room.tokens)


def _num_sequences(header: gguf.Header) -> int:
    """How many texts one call may hold, a power of two: recurrent models keep a state for each."""
    state = gguf.kv_bytes_per_token(header).state
    if state == 0:
        return _SEQUENCES
    fitting = _STATE_BYTES // state if state else 1
    return 1 << min(fitting, _SEQUENCES).bit_length() - 1 if fitting else 1


def _require_memory(header: gguf.Header, options: ContextOptions) -> None:
    """Raise OutOfMemory when a context that embeds cannot fit.

    Besides what every context takes, it keeps logits of every token and, in recurrent models, a
    state for every sequence.
    """
    states = (gguf.kv_bytes_per_token(header).state or 0) * (options.num_sequences - 1)
    logits = 4 * (header.vocab_size or 0) * options.batch_size
    need = memory.context_bytes(header, options) + states + logits
    available = memory.available_bytes()
    if available is not None and need > available:
        raise OutOfMemory(
            f"not enough memory: to embed {options.context_length} tokens {need / _GIB:.1f} GiB are"
            f" needed and {available / _GIB:.1f} GiB are free; send shorter texts"
        )
