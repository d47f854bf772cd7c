"""Models as OpenAI's clients list them."""

from __future__ import annotations

from openai.types import Model
from pydantic import TypeAdapter

from samovar.api.facts import ModelFacts
from samovar.api.openai.models import model_body, models_body


def test_a_model_is_one_of_the_sdks() -> None:
    facts = ModelFacts("m", modified=7, context_length=4096, quantization="Q8_0")
    made = Model.model_validate_json(model_body(facts))
    assert (made.id, made.created, made.object, made.owned_by) == ("m", 7, "model", "samovar")
    assert made.model_extra == {"context_length": 4096, "quantization": "Q8_0"}


def test_the_list_holds_every_model_in_its_order() -> None:
    body = TypeAdapter(dict).validate_json(
        models_body([ModelFacts("b"), ModelFacts("a", problem="it is broken")])
    )
    assert body["object"] == "list"
    assert [one["id"] for one in body["data"]] == ["b", "a"]
