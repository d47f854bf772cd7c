"""Vectors and scores without weights: digests that depend on every token, in its place.

A passage that is computed in several calls goes on from what the last call left, and every token
counts together with the adapters that it was computed under: a part that is lost, repeated, or of
another passage changes the vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from samovar.errors import (
    ContextOverflow,
    DecodeTimeout,
    InvalidToken,
    OperationUnsupported,
    SamovarError,
)
from samovar.native import checks
from samovar.native.interface import RANK, Aborted, NoRoom, Passage, Text
from samovar.native.passages import Portion, Room, portions, restart

WIDTH = 16
_SEQUENCES = 8

Fault = NoRoom | Aborted | Exception


class WeightlessEmbedder:
    """See Embedder. `can_rank` and `can_cut` are for tests to change: another kind of model."""

    def __init__(
        self,
        longest: int,
        batch_size: int,
        vocabulary: range,
        adapters: Callable[[], bytes],
        fault: Callable[[], Fault | None],
    ) -> None:
        self.longest = longest
        self.batch_size = batch_size
        self.can_rank = True
        self.can_cut = True
        self.calls = 0
        """Calls that computed something."""
        self._vocabulary = vocabulary
        self._adapters = adapters
        self._fault = fault
        self._unfinished: Passage | None = None
        self._begun_under = b""

    def embed_many(
        self, texts: Sequence[Sequence[int]], *, pooling: str | None = None
    ) -> np.ndarray:
        """See Backend."""
        return self._finished(texts, self.pooling_of(pooling), WIDTH)

    def rank(self, query: Text, documents: Sequence[Text]) -> np.ndarray:
        """See Backend."""
        self._require_head()
        return self._finished([self.pair(query, one) for one in documents], RANK, 1)[:, 0]

    def _finished(self, texts: Sequence[Sequence[int]], pooling: str, width: int) -> np.ndarray:
        self._adapters()  # refuses when the backend is closed
        for tokens in texts:
            if not tokens:
                raise InvalidToken("there is nothing to embed")
            checks.check_tokens(tokens, len(self._vocabulary))
            self.prepare(pooling, len(tokens))
        passages = [Passage(tokens) for tokens in texts]
        while left := [one for one in passages if one.vector is None]:
            self.advance(left, pooling, self.batch_size)
        vectors = [one.vector for one in passages if one.vector is not None]
        return np.array(vectors, np.float32).reshape(len(texts), width)

    def pooling_of(self, pooling: str | None) -> str:
        """See Embedder."""
        checks.check_pooling(pooling)
        return pooling or "last"

    def pair(self, query: Text, document: Text) -> list[int]:
        """See Embedder: BOS, the query, EOS, the document, EOS."""
        self._require_head()
        bos, eos = self._vocabulary[-2:]
        return [bos, *self._ids(query), eos, *self._ids(document), eos]

    def prepare(self, pooling: str, length: int) -> None:  # noqa: ARG002 - there is nothing to make
        """See Embedder."""
        if length > self.longest:
            raise ContextOverflow(f"{length} tokens to embed, the model sees {self.longest}; split")

    def advance(self, passages: Sequence[Passage], pooling: str, limit: int) -> int:
        """See Embedder."""
        self._begin(passages)
        taken = portions(passages, limit, self._room(passages[0]))
        try:
            self._fail(self._fault())
        except SamovarError:
            self._unfinished = None
            raise
        self.calls += 1
        for portion in taken:
            _compute(portion, pooling, self._begun_under)
        return sum(portion.count for portion in taken)

    def _begin(self, passages: Sequence[Passage]) -> None:
        if passages[0] is not self._unfinished or self._begun_under != self._adapters():
            self._unfinished, self._begun_under = passages[0], self._adapters()
            restart(passages[0])
        for passage in passages[1:]:
            restart(passage)

    def _room(self, first: Passage) -> Room:
        cells = max(self.batch_size, len(first.tokens))
        return Room(self.batch_size, cells, _SEQUENCES, self.can_cut)

    @staticmethod
    def _fail(fault: Fault | None) -> None:
        if isinstance(fault, NoRoom):
            raise ContextOverflow("the text to embed does not fit")
        if isinstance(fault, Aborted):
            raise DecodeTimeout("embedding was interrupted")
        if fault is not None:
            raise fault

    def _require_head(self) -> None:
        if not self.can_rank:
            raise OperationUnsupported("this model has no head that scores texts")

    def _ids(self, text: Text) -> list[int]:
        if isinstance(text, (str, bytes)):
            return list(text.encode() if isinstance(text, str) else text)
        checks.check_tokens(text, len(self._vocabulary))
        return list(text)


def _compute(portion: Portion, pooling: str, adapters: bytes) -> None:
    passage, start = portion.passage, portion.passage.num_computed
    end = start + portion.count
    running = b"" if passage.partial is None else passage.partial.tobytes()
    for token in passage.tokens[start:end]:
        about = running + int(token).to_bytes(4, "little") + adapters
        running = hashlib.blake2b(about, digest_size=2 * WIDTH).digest()
    passage.partial, passage.num_computed = np.frombuffer(running, np.uint8), end
    if end == len(passage.tokens):
        digest = hashlib.blake2b(running + pooling.encode(), digest_size=2 * WIDTH).digest()
        vector = np.frombuffer(digest, "<u2").astype(np.float32) / np.float32(2**16)
        passage.vector = vector[:1] if pooling == RANK else vector
