"""Embeddings: the bodies, the request that they become, and the vectors as bodies."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
from pydantic import Field

from samovar.api.ollama.answers import Watch
from samovar.api.ollama.requests import Kept
from samovar.types import MAX_INPUTS, Embedded, EmbedRequest, Event


class EmbedBody(Kept):
    """The body of /api/embed."""

    input: str | Annotated[list[str], Field(max_length=MAX_INPUTS)] | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=0)] | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """What is to become vectors; nothing: the model is only to be there."""
        given = [self.input] if isinstance(self.input, str) else self.input or []
        return () if given == [""] else tuple(given)


class EmbeddingsBody(Kept):
    """The body of the older /api/embeddings."""

    prompt: str | None = None


def embed_request(body: EmbedBody, request_id: str, tenant: str) -> EmbedRequest:
    """The request. Texts that are too long are cut, unless that was ruled out."""
    return EmbedRequest(request_id, body.texts, truncates=body.truncate is not False, tenant=tenant)


def embeddings_request(body: EmbeddingsBody, request_id: str, tenant: str) -> EmbedRequest:
    """The request of the older route, whose vectors keep their length."""
    texts = (body.prompt or "",)
    return EmbedRequest(request_id, texts, normalizes=False, truncates=True, tenant=tenant)


class EmbedCollector:
    """The body of /api/embed."""

    def __init__(self, model: str, watch: Watch, dimensions: int | None) -> None:
        self._model = model
        self._watch = watch
        self._dimensions = dimensions or None
        self._end: Embedded | None = None

    def feed(self, event: Event) -> None:
        """Take the vectors."""
        if isinstance(event, Embedded):
            self._end = event

    def body(self) -> bytes:
        """The body; of no texts, after no event, one without vectors."""
        found: dict[str, Any] = {"model": self._model, "embeddings": []}
        if self._end is None:
            return msgspec.json.encode(found)
        durations = self._watch.durations(self._end.usage)
        names = ("total_duration", "load_duration", "prompt_eval_count")
        found |= {name: durations[name] for name in names}
        found["embeddings"] = _shortened(self._end.vectors, self._dimensions).tolist()
        return msgspec.json.encode(found)


class EmbeddingsCollector:
    """The body of the older /api/embeddings."""

    def __init__(self) -> None:
        self._vector: list[float] = []

    def feed(self, event: Event) -> None:
        """Take the vector."""
        if isinstance(event, Embedded):
            self._vector = event.vectors[0].tolist()

    def body(self) -> bytes:
        """The body."""
        return msgspec.json.encode({"embedding": self._vector})


def _shortened(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """So many of the first numbers, scaled to length 1 again."""
    if dimensions is None or dimensions >= vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    scaled: np.ndarray = np.divide(cut, lengths, out=np.zeros_like(cut), where=lengths > 0)
    return scaled
