"""Embeddings, reranking and tokens over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from samovar.config import WorkerConfig
from samovar.server.served import ServedModel
from tests.conftest import Models
from tests.server.openai_clients import MODEL, client_of
from tests.server.serving import PATIENCE, serving

TEXTS = ["a red kite", "a blue ball", "the sea"]
SMALL = WorkerConfig(threads=1, context_length=128)


@pytest.fixture(scope="module")
def vectors(models: Models) -> Iterator[str]:
    """A server of a model for vectors and of one for scores."""
    bert, ranker = models("bert"), models("bert", pooling="rank")
    served = [
        ServedModel("bert", str(bert), SMALL, None),
        ServedModel("ranker", str(ranker), SMALL, None),
    ]
    with serving(served) as url:
        yield url


@pytest.fixture
def client(vectors: str) -> Iterator[openai.OpenAI]:
    with client_of(vectors) as made:
        yield made


def embedded(client: openai.OpenAI, given: Any, **more: Any) -> np.ndarray:  # noqa: ANN401
    done = client.embeddings.create(model="bert", input=given, **more)
    assert [one.index for one in done.data] == list(range(len(done.data)))
    assert done.usage.prompt_tokens == done.usage.total_tokens > 0
    return np.array([one.embedding for one in done.data], np.float32)


def test_numbers_and_base64_are_the_same_vectors(client: openai.OpenAI) -> None:
    plain = embedded(client, TEXTS, encoding_format="float")
    packed = embedded(client, TEXTS)  # the client asks for base64 by itself
    assert plain.shape == packed.shape == (3, 128)
    assert np.array_equal(plain, packed)
    assert np.linalg.norm(plain, axis=1) == pytest.approx(1, abs=1e-5)


def test_an_asynchronous_client_gets_the_same(vectors: str, client: openai.OpenAI) -> None:
    async def ask() -> list[float]:
        async with openai.AsyncOpenAI(api_key="x", base_url=f"{vectors}/v1") as asking:
            done = await asking.embeddings.create(model="bert", input=TEXTS[0])
            return done.data[0].embedding

    assert np.allclose(asyncio.run(ask()), embedded(client, TEXTS[0])[0])


def test_text_and_its_tokens_have_the_same_vector(client: openai.OpenAI) -> None:
    tokens = [
        client.post("/tokenize", body={"model": "bert", "content": text}, cast_to=dict[str, Any])[
            "tokens"
        ]
        for text in TEXTS
    ]
    assert np.allclose(embedded(client, tokens), embedded(client, TEXTS), atol=1e-6)
    assert np.allclose(embedded(client, tokens[0]), embedded(client, TEXTS[0]), atol=1e-6)


def test_fewer_dimensions_are_the_first_ones_at_length_one(client: openai.OpenAI) -> None:
    whole, cut = embedded(client, TEXTS), embedded(client, TEXTS, dimensions=5)
    wanted = whole[:, :5] / np.linalg.norm(whole[:, :5], axis=1, keepdims=True)
    assert np.allclose(cut, wanted, atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="128"):
        embedded(client, TEXTS, dimensions=129)


def test_too_long_a_text_is_refused_or_cut(client: openai.OpenAI) -> None:
    long = "kite " * 1000
    with pytest.raises(openai.BadRequestError):
        embedded(client, long)
    assert embedded(client, long, extra_body={"truncate": True}).shape == (1, 128)


def test_documents_are_told_best_first(vectors: str) -> None:
    body: dict[str, Any] = {"model": "ranker", "query": "a kite", "documents": TEXTS}
    every = httpx.post(f"{vectors}/v1/rerank", json=body, timeout=PATIENCE).json()
    scores = [one["relevance_score"] for one in every["results"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(one["index"] for one in every["results"]) == [0, 1, 2]
    assert "document" not in every["results"][0]
    assert every["usage"]["total_tokens"] > 0
    body |= {
        "documents": [{"text": text} for text in TEXTS],
        "top_n": 2,
        "return_documents": True,
    }
    some = httpx.post(f"{vectors}/v2/rerank", json=body, timeout=PATIENCE).json()["results"]
    assert [one["relevance_score"] for one in some] == scores[:2]
    assert [one["document"]["text"] for one in some] == [TEXTS[one["index"]] for one in some]


def test_who_has_no_scores_says_so(vectors: str) -> None:
    body = {"model": "bert", "query": "a", "documents": ["b"]}
    told = httpx.post(f"{vectors}/v1/rerank", json=body, timeout=PATIENCE)
    assert told.status_code == 400
    assert told.json()["error"]["code"] == "operation_unsupported"


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
def test_text_becomes_tokens_and_text_again(server: str, path: str) -> None:
    text = "Mia has a red kite."
    body = {"prompt": text, "add_special_tokens": False, "return_token_strs": True}
    told = httpx.post(server + path, json=body, timeout=PATIENCE).json()
    assert told["count"] == len(told["tokens"])
    assert told["max_model_len"] == 2048
    assert "".join(told["token_strs"]) == text
    again = httpx.post(
        f"{server}/detokenize", json={"tokens": told["tokens"]}, timeout=PATIENCE
    ).json()
    assert again["content"] == again["prompt"] == text


def test_a_conversation_has_as_many_tokens_as_its_answer_says(server: str) -> None:
    messages = [{"role": "user", "content": "Hello!"}]
    told = httpx.post(f"{server}/tokenize", json={"messages": messages}, timeout=PATIENCE).json()
    with client_of(server) as client:
        done = client.chat.completions.create(
            model=MODEL,
            messages=messages,  # type: ignore[arg-type]
            max_tokens=1,
        )
    assert done.usage is not None
    assert told["count"] == done.usage.prompt_tokens


def test_control_tokens_are_text_unless_they_are_to_be_read(server: str) -> None:
    body = {"content": "<|im_end|>", "add_special": False}
    as_text = httpx.post(f"{server}/tokenize", json=body, timeout=PATIENCE).json()["tokens"]
    as_token = httpx.post(
        f"{server}/tokenize", json={**body, "parse_special": True}, timeout=PATIENCE
    ).json()
    assert len(as_token["tokens"]) == 1 < len(as_text)
