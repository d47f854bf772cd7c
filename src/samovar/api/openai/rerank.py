"""Reranking, in the shape that Jina's and Cohere's clients share."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from samovar.api.openai.checks import MAX_NAME, BadField
from samovar.api.openai.embeddings import VectorUsage
from samovar.api.openai.generation import within
from samovar.types import MAX_INPUTS, Event, Ranked, RankRequest


class Document(BaseModel):
    """A document as an object."""

    model_config = ConfigDict(extra="allow")

    text: str


class RerankRequest(BaseModel):
    """The body of /v1/rerank. Unknown fields are ignored, and told in a header."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    query: str
    documents: Annotated[list[str | Document], Field(min_length=1, max_length=MAX_INPUTS)] = Field(
        validation_alias=AliasChoices("documents", "texts")
    )
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    truncate: bool = False
    """Cut a document that does not fit beside the query, instead of refusing it."""
    user: Annotated[str, Field(max_length=MAX_NAME)] | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The documents as text."""
        return tuple(one if isinstance(one, str) else one.text for one in self.documents)


class Text(msgspec.Struct, frozen=True):
    """A document, as it came."""

    text: str


class Result(msgspec.Struct, frozen=True):
    """How well a document fits. The scale is the model's own; higher is better."""

    index: int
    relevance_score: float
    document: Text | UnsetType = UNSET


class Results(msgspec.Struct, frozen=True):
    """The body: the best first."""

    id: str
    object: str
    model: str
    results: list[Result]
    usage: VectorUsage


def decode_rerank(body: RerankRequest, request_id: str, tenant: str) -> RankRequest:
    """The request. Raises BadField for an empty text."""
    for param, texts in (("query", (body.query,)), ("documents", body.texts)):
        if not all(texts):
            raise BadField(param, "a text is empty; give some text")
    return RankRequest(
        request_id,
        body.query,
        body.texts,
        truncates=body.truncate,
        tenant=within(tenant, body.user) if body.user else tenant,
    )


class RerankCollector:
    """A Collector."""

    def __init__(self, body: RerankRequest, model: str) -> None:
        self._asked = body
        self._model = model
        self._event: Ranked | None = None

    def feed(self, event: Event) -> None:
        """See Collector."""
        if isinstance(event, Ranked):
            self._event = event

    def body(self) -> bytes:
        """See Collector. Of documents that score the same, the first comes first."""
        event = self._event
        assert event is not None
        scores, texts = event.scores, self._asked.texts
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        results = [
            Result(i, scores[i], Text(texts[i]) if self._asked.return_documents else UNSET)
            for i in order[: self._asked.top_n]
        ]
        usage = VectorUsage(event.usage.prompt_tokens, event.usage.prompt_tokens)
        return msgspec.json.encode(Results(event.request_id, "list", self._model, results, usage))
