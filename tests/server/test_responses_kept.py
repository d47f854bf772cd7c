"""Responses after they were given: looked up, continued, cancelled, forgotten."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response

from samovar.config import ServerConfig
from tests.server.conftest import mini
from tests.server.serving import PATIENCE, serving

MODEL = "samovar-mini"
ENDLESS: Any = {"ignore_eos": True}
"""Until the room of a sequence is used up: some seconds."""


@pytest.fixture
def client(server: str) -> Iterator[OpenAI]:
    with connected(server) as one:
        yield one


def connected(server: str, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{server}/v1", api_key=key, max_retries=0)


def ask(client: OpenAI, given: object, **more: Any) -> Any:  # noqa: ANN401
    return client.responses.create(model=MODEL, input=given, temperature=0, **more)


def texts(client: OpenAI, response_id: str, **more: Any) -> list[str]:  # noqa: ANN401
    found = client.responses.input_items.list(response_id, **more)
    return [part.text for item in found for part in item.content]  # type: ignore[union-attr]


def test_a_conversation_goes_on_over_three_turns(client: OpenAI) -> None:
    first = ask(client, "Call me Anna.")
    second = ask(client, "Which day comes after Tuesday?", previous_response_id=first.id)
    third = ask(client, "Who am I?", previous_response_id=second.id)
    assert "Anna" in third.output_text
    assert "Anna" not in ask(client, "Who am I?").output_text
    assert third.usage is not None
    assert second.usage is not None
    assert third.usage.input_tokens > second.usage.input_tokens
    assert third.usage.input_tokens_details.cached_tokens > 0
    assert texts(client, third.id, order="asc") == [
        "Call me Anna.",
        first.output_text,
        "Which day comes after Tuesday?",
        second.output_text,
        "Who am I?",
    ]
    assert texts(client, third.id, limit=2) == list(reversed(texts(client, third.id, order="asc")))
    page = client.responses.input_items.list(third.id, limit=2)
    assert len(page.data) == 2
    assert page.has_more


def test_two_conversations_can_part_from_one_response(client: OpenAI) -> None:
    first = ask(client, "Call me Anna.")
    other = ask(client, "Which day comes after Tuesday?", previous_response_id=first.id)
    again = ask(client, "Who am I?", previous_response_id=first.id)
    assert "Anna" in again.output_text
    assert "Wednesday" in other.output_text


def test_instructions_are_not_handed_on(client: OpenAI) -> None:
    first = ask(client, "Hello!", instructions="Be brief.")
    second = ask(client, "Hello!", previous_response_id=first.id)
    assert second.instructions is None
    assert len(texts(client, second.id)) == 3


def test_a_response_is_found_until_it_is_deleted(client: OpenAI) -> None:
    said = ask(client, "Tell me what yellow is.")
    assert client.responses.retrieve(said.id) == said
    client.responses.delete(said.id)
    for gone in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            gone(said.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(said.id)
    with pytest.raises(openai.BadRequestError):
        ask(client, "And red?", previous_response_id=said.id)


def test_what_is_streamed_is_kept_as_well(client: OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="Hello!", temperature=0) as stream:
        final = stream.get_final_response()
    assert client.responses.retrieve(final.id).output_text == final.output_text


def test_what_is_not_to_be_stored_is_not(client: OpenAI) -> None:
    said = ask(client, "Hello!", store=False)
    assert said.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(said.id)


def test_an_item_is_found_by_its_id(client: OpenAI) -> None:
    first = ask(client, "Call me Anna.")
    (item,) = client.responses.input_items.list(first.id).data
    references = [{"type": "item_reference", "id": one.id} for one in (item, *first.output)]
    said = ask(client, [*references, {"role": "user", "content": "Who am I?"}])
    assert "Anna" in said.output_text


def test_a_response_that_has_ended_cannot_be_cancelled(client: OpenAI) -> None:
    said = ask(client, "Hello!")
    with pytest.raises(openai.BadRequestError, match="has ended"):
        client.responses.cancel(said.id)


def test_a_stream_that_runs_can_be_looked_up_and_cancelled(client: OpenAI) -> None:
    with ask(client, "Tell me a story.", stream=True, extra_body=ENDLESS) as stream:
        events = iter(stream)
        response_id = next(events).response.id
        assert client.responses.retrieve(response_id).status == "in_progress"
        cancelled = client.responses.cancel(response_id)
        last = list(events)[-1]
    assert cancelled.status == "cancelled"
    assert last.type == "response.incomplete"
    assert last.response.status == "cancelled"
    assert client.responses.retrieve(response_id) == cancelled
    assert client.responses.cancel(response_id) == cancelled


def test_a_client_that_goes_leaves_nothing_running(client: OpenAI) -> None:
    with ask(client, "Tell me a story.", stream=True, extra_body=ENDLESS) as stream:
        response_id = next(iter(stream)).response.id
    deadline = time.monotonic() + PATIENCE
    while is_there(client, response_id):
        assert time.monotonic() < deadline


def is_there(client: OpenAI, response_id: str) -> bool:
    try:
        found = client.responses.retrieve(response_id)
    except openai.NotFoundError:
        return False
    assert found.status == "in_progress"
    return True


# ---- in the background ---------------------------------------------------------------------------


def finished(client: OpenAI, response_id: str) -> Response:
    deadline = time.monotonic() + PATIENCE
    while True:
        found = client.responses.retrieve(response_id)
        if found.status != "in_progress":
            return found
        assert time.monotonic() < deadline


def test_a_response_in_the_background_can_be_fetched(client: OpenAI) -> None:
    begun = ask(client, "Call me Anna.", background=True)
    assert begun.status == "in_progress"
    assert begun.background
    said = finished(client, begun.id)
    assert said.status == "completed"
    assert said.output_text == ask(client, "Call me Anna.").output_text
    following = ask(client, "Who am I?", previous_response_id=begun.id)
    assert "Anna" in following.output_text


def test_a_response_in_the_background_can_be_cancelled(client: OpenAI) -> None:
    begun = ask(client, "Tell me a story.", background=True, extra_body=ENDLESS)
    with pytest.raises(openai.BadRequestError, match="in progress"):
        ask(client, "And then?", previous_response_id=begun.id)
    assert client.responses.cancel(begun.id).status == "cancelled"
    assert client.responses.retrieve(begun.id).status == "cancelled"


def test_a_response_in_the_background_can_be_deleted(client: OpenAI) -> None:
    begun = ask(client, "Tell me a story.", background=True, extra_body=ENDLESS)
    client.responses.delete(begun.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(begun.id)


def test_a_stream_in_the_background_is_taken_up_again_where_it_was_left(client: OpenAI) -> None:
    with ask(client, "Hello!", background=True, stream=True) as stream:
        first = next(iter(stream))
    response_id = first.response.id
    again = list(client.responses.retrieve(response_id, stream=True))
    assert [event.sequence_number for event in again] == list(range(len(again)))
    assert again[-1].type == "response.completed"
    assert again[-1].response == client.responses.retrieve(response_id)
    rest = list(client.responses.retrieve(response_id, stream=True, starting_after=3))
    assert rest == again[4:]


def test_a_failure_in_the_background_is_told_by_the_response(client: OpenAI) -> None:
    schema = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "no"}}}
    begun = ask(client, "Hello!", background=True, text=schema)
    said = finished(client, begun.id)
    assert said.status == "failed"
    assert said.error is not None
    assert said.error.code == "invalid_prompt"
    with pytest.raises(openai.BadRequestError, match="failed"):
        ask(client, "And then?", previous_response_id=begun.id)


def test_only_what_runs_in_the_background_can_be_streamed_again(client: OpenAI) -> None:
    said = ask(client, "Hello!")
    with pytest.raises(openai.BadRequestError):
        client.responses.retrieve(said.id, stream=True)


# ---- tenants -------------------------------------------------------------------------------------

KEYS = """
[[keys]]
name = "alice"
key = "sk-of-alice-0123456789"
[[keys]]
name = "bob"
key = "sk-of-bob-0123456789"
"""


def test_nobody_sees_the_responses_of_others(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(KEYS, encoding="utf-8")
    keys.chmod(0o600)
    with (
        serving([mini(tmp_path / "kv")], config=ServerConfig(keys_file=keys)) as url,
        connected(url, "sk-of-alice-0123456789") as alice,
        connected(url, "sk-of-bob-0123456789") as bob,
    ):
        said = ask(alice, "Hello!")
        (item,) = alice.responses.input_items.list(said.id).data
        for seen in (bob.responses.retrieve, bob.responses.delete, bob.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                seen(said.id)
        with pytest.raises(openai.BadRequestError):
            ask(bob, "Hello!", previous_response_id=said.id)
        with pytest.raises(openai.BadRequestError):
            ask(bob, [{"type": "item_reference", "id": item.id}])
        assert alice.responses.retrieve(said.id) == said
        # What runs in the background is no reason for a server not to end.
        ask(alice, "Tell me a story.", background=True, extra_body=ENDLESS)
