"""Embeddings: the body, the request that it becomes, and the vectors as a body."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import msgspec
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from samovar.api.openai.checks import MAX_NAME, BadField
from samovar.api.openai.generation import within
from samovar.api.openai.inputs import Inputs, listed
from samovar.types import MAX_INPUTS, Embedded, EmbedRequest, Event


class EmbeddingsRequest(BaseModel):
    """The body of /v1/embeddings. Unknown fields are ignored, and told in a header."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """So many of the first numbers, scaled to length 1 again: for models that were trained so."""
    user: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    pooling: Literal["mean", "cls", "last"] | None = None
    normalize: bool = True
    truncate: bool = False
    """Cut what is longer than the model sees at once, instead of refusing it."""


class Vector(msgspec.Struct, frozen=True):
    """One of them."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class VectorUsage(msgspec.Struct, frozen=True):
    """What it took."""

    prompt_tokens: int
    total_tokens: int


class Vectors(msgspec.Struct, frozen=True):
    """The body."""

    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: VectorUsage


def decode_embeddings(body: EmbeddingsRequest, request_id: str, tenant: str) -> EmbedRequest:
    """The request. Raises InvalidRequest, and BadField for an empty text."""
    inputs = tuple(listed(body.input, "input", MAX_INPUTS))
    if not all(inputs):
        raise BadField("input", "a text is empty; give some text or tokens")
    return EmbedRequest(
        request_id,
        inputs,
        pooling=body.pooling,
        normalizes=body.normalize,
        truncates=body.truncate,
        tenant=within(tenant, body.user) if body.user else tenant,
    )


class EmbeddingsCollector:
    """A Collector."""

    def __init__(self, body: EmbeddingsRequest, model: str) -> None:
        self._asked = body
        self._model = model
        self._event: Embedded | None = None

    def feed(self, event: Event) -> None:
        """See Collector."""
        if isinstance(event, Embedded):
            self._event = event

    def body(self) -> bytes:
        """See Collector. Raises BadField for more dimensions than there are."""
        event = self._event
        assert event is not None
        is_text = self._asked.encoding_format == "base64"
        data = [
            Vector("embedding", index, _base64(row) if is_text else row.tolist())
            for index, row in enumerate(_cut(event.vectors, self._asked))
        ]
        tokens = event.usage.prompt_tokens
        usage = VectorUsage(tokens, tokens)
        return msgspec.json.encode(Vectors("list", data, self._model, usage))


def _cut(vectors: np.ndarray, body: EmbeddingsRequest) -> np.ndarray:
    width = vectors.shape[1]
    wanted = body.dimensions
    if wanted is None or wanted == width:
        return vectors
    if wanted > width:
        raise BadField("dimensions", f"this model's vectors have {width}; ask for no more")
    cut = vectors[:, :wanted]
    if not body.normalize:
        return cut
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    scaled: np.ndarray = np.divide(cut, lengths, out=np.zeros_like(cut), where=lengths > 0)
    return scaled


def _base64(row: np.ndarray) -> str:
    """float32, least significant byte first: what OpenAI's clients decode."""
    return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
