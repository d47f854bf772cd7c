"""The list of models is paged as Anthropic's is, and the SDK reads it."""

from __future__ import annotations

import json

import pytest
from anthropic.types import ModelInfo

from samovar.api.anthropic.models import model_body, models_body
from samovar.api.facts import ModelFacts
from samovar.errors import InvalidRequest

FACTS = [
    ModelFacts(f"m{n}", modified=86400 * n, context_length=2048, capabilities=("thinking",))
    for n in range(5)
]


def ids(body: bytes) -> list[str]:
    return [one["id"] for one in json.loads(body)["data"]]


def test_a_model_is_what_the_sdk_expects() -> None:
    found = ModelInfo.model_validate_json(model_body(FACTS[1]))
    assert (found.id, found.type, found.created_at.year) == ("m1", "model", 1970)
    assert found.max_input_tokens == 2048
    assert found.capabilities is not None
    assert found.capabilities.thinking.types.enabled.supported
    assert not found.capabilities.image_input.supported


def test_pages_follow_on_each_other_in_both_directions() -> None:
    first = json.loads(models_body(FACTS, 2))
    assert (first["first_id"], first["last_id"], first["has_more"]) == ("m0", "m1", True)
    assert ids(models_body(FACTS, 2, after_id="m1")) == ["m2", "m3"]
    last = models_body(FACTS, 2, after_id="m3")
    assert ids(last) == ["m4"]
    assert not json.loads(last)["has_more"]
    back = models_body(FACTS, 2, before_id="m3")
    assert ids(back) == ["m1", "m2"]
    assert json.loads(back)["has_more"]
    assert json.loads(models_body([], 2)) == {
        "data": [],
        "first_id": None,
        "has_more": False,
        "last_id": None,
    }
    assert len(ids(models_body(FACTS, after_id="unknown"))) == 5


def test_pages_that_make_no_sense() -> None:
    with pytest.raises(InvalidRequest, match="limit"):
        models_body(FACTS, 0)
    with pytest.raises(InvalidRequest, match="not both"):
        models_body(FACTS, 1, "m0", "m1")
