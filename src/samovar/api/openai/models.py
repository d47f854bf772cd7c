"""The bodies of the list of models and of one model."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from samovar.api.facts import ModelFacts

OWNER = "samovar"


class Model(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model. What follows `owned_by` is ours; clients of others look for the same names."""

    id: str
    created: int
    object: str
    owned_by: str
    context_length: int | None = None
    """Tokens it was trained on."""
    architecture: str = ""
    quantization: str = ""
    size_bytes: int = 0
    capabilities: tuple[str, ...] = ()


class ModelList(msgspec.Struct, frozen=True):
    """All of them."""

    object: str
    data: list[Model]


def model_body(facts: ModelFacts) -> bytes:
    """The body of one model."""
    return msgspec.json.encode(_model(facts))


def models_body(facts: Iterable[ModelFacts]) -> bytes:
    """The body of the list."""
    return msgspec.json.encode(ModelList("list", [_model(one) for one in facts]))


def _model(facts: ModelFacts) -> Model:
    return Model(
        id=facts.name,
        created=facts.modified,
        object="model",
        owned_by=OWNER,
        context_length=facts.context_length,
        architecture=facts.architecture,
        quantization=facts.quantization,
        size_bytes=facts.size_bytes,
        capabilities=facts.capabilities,
    )
