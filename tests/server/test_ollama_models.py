"""Ollama's own client against a server: models, vectors, and how long models stay."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from ollama import AsyncClient, Client, ResponseError

from samovar.config import CacheConfig, WorkerConfig
from samovar.models import path_of
from samovar.server.served import ServedModel
from tests.conftest import Models
from tests.gguf.gguf_files import U32, parse
from tests.server.conftest import mini
from tests.server.serving import PATIENCE, serving

MODEL = "samovar-mini"
EXACT = {"temperature": 0, "num_predict": 4}


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with_pool = Client(host=server)
    yield with_pool
    with_pool.close()


def embedder(path: Path) -> ServedModel:
    worker = WorkerConfig(threads=1, context_length=256, num_sequences=2)
    return ServedModel("embedder", str(path), worker, CacheConfig(memory_bytes=0, disk_bytes=0))


def until_unloaded(client: Client) -> None:
    deadline = time.monotonic() + PATIENCE
    while client.ps().models:
        assert time.monotonic() < deadline


# ---- about models --------------------------------------------------------------------------------


def test_what_clients_look_for(server: str) -> None:
    for path in ("/", "/api/tags", "/api/version", "/api/ps"):
        assert httpx.head(f"{server}{path}").status_code == 200
    assert httpx.get(server, timeout=PATIENCE).text == "Ollama is running"
    told = httpx.get(f"{server}/api/version", timeout=PATIENCE).json()
    assert tuple(map(int, told["version"].split("."))) >= (0, 6, 4)


def test_the_list(client: Client) -> None:
    (found,) = client.list().models
    assert found.model == MODEL
    file = path_of(MODEL)
    assert file is not None
    assert found.size == file.stat().st_size
    assert found.details is not None
    assert (found.details.format, found.details.family) == ("gguf", "llama")
    assert (found.details.parameter_size, found.details.quantization_level) == ("4.2M", "Q8_0")
    assert found.digest is not None
    assert len(found.digest) == 64


@pytest.mark.parametrize("name", [MODEL, f"{MODEL}:latest"])
def test_everything_about_a_model(client: Client, name: str) -> None:
    found = client.show(name)
    assert found.capabilities == ["completion", "tools", "thinking"]
    assert found.template is not None
    assert "<|im_start|>" in found.template
    assert found.modelinfo is not None
    assert found.modelinfo["general.architecture"] == "llama"
    assert found.modelinfo["llama.context_length"] == 2048
    assert found.modelinfo["general.parameter_count"] == 4_213_504
    assert found.modelinfo["tokenizer.ggml.tokens"] is None
    assert found.license == "MIT"
    with pytest.raises(ResponseError) as caught:
        client.show("nobody")
    assert caught.value.status_code == 404


def test_everything_with_its_vocabulary(server: str) -> None:
    body = {"name": MODEL, "verbose": True}
    info = httpx.post(f"{server}/api/show", json=body, timeout=PATIENCE).json()["model_info"]
    assert len(info["tokenizer.ggml.tokens"]) == info["llama.vocab_size"]


def test_what_is_not_managed_here(client: Client, server: str, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(b"x")
    for ask in (
        lambda: client.pull("llama3"),
        lambda: list(client.pull("llama3", stream=True)),
        lambda: client.push("llama3"),
        lambda: client.create("mine", from_=MODEL),
        lambda: client.copy(MODEL, "mine"),
        lambda: client.delete(MODEL),
        lambda: client.create_blob(file),
    ):
        with pytest.raises(ResponseError, match="GGUF") as caught:
            ask()
        assert caught.value.status_code == 501
    assert httpx.head(f"{server}/api/blobs/sha256:00").status_code == 501


def test_the_way_to_it_is_in_the_environment(server: str) -> None:
    ask = "import ollama; print(ollama.list().models[0].model)"
    done = subprocess.run(
        [sys.executable, "-c", ask],
        env={**os.environ, "OLLAMA_HOST": server.removeprefix("http://")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.strip() == MODEL


# ---- vectors -------------------------------------------------------------------------------------


def test_vectors_of_a_model_that_was_made_for_text(client: Client) -> None:
    found = client.embed(MODEL, ["The sky is blue.", "A bear sleeps."])
    vectors = np.array(found.embeddings)
    assert vectors.shape == (2, 256)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert found.prompt_eval_count is not None
    assert found.prompt_eval_count > 4
    assert found.total_duration is not None
    assert found.total_duration >= (found.load_duration or 0)
    single = client.embed(MODEL, "The sky is blue.")
    assert np.array(single.embeddings)[0] == pytest.approx(vectors[0], abs=1e-3)


def test_shorter_vectors(client: Client) -> None:
    whole = np.array(client.embed(MODEL, "The sky is blue.").embeddings)[0]
    short = np.array(client.embed(MODEL, "The sky is blue.", dimensions=16).embeddings)[0]
    assert short.shape == (16,)
    assert short == pytest.approx(whole[:16] / np.linalg.norm(whole[:16]), abs=1e-3)


def test_the_older_route(client: Client) -> None:
    found = client.embeddings(MODEL, "The sky is blue.").embedding
    whole = np.array(client.embed(MODEL, "The sky is blue.").embeddings)[0]
    as_it_is = np.array(found)
    assert as_it_is / np.linalg.norm(as_it_is) == pytest.approx(whole, abs=1e-3)
    assert client.embeddings(MODEL, "").embedding == []


def test_no_texts(client: Client) -> None:
    assert client.embed(MODEL, []).embeddings == []
    with pytest.raises(ResponseError) as caught:
        client.embed(MODEL, ["a", ""])
    assert caught.value.status_code == 400


def test_texts_that_are_too_long(models: Models) -> None:
    with serving([embedder(models("bert"))]) as url:
        client = Client(host=url)
        long = "word " * 2000
        assert len(client.embed("embedder", long).embeddings) == 1
        with pytest.raises(ResponseError) as caught:
            client.embed("embedder", long, truncate=False)
        assert caught.value.status_code == 400
        assert client.show("embedder").capabilities == ["embedding"]
        with pytest.raises(ResponseError) as caught:
            client.generate("embedder", "Hello")
        assert caught.value.status_code == 400
        client.close()


# ---- filling in ----------------------------------------------------------------------------------


def test_a_text_is_filled_in_between_two(tmp_path: Path) -> None:
    file = path_of(MODEL)
    assert file is not None
    raw = parse(file.read_bytes())
    for token, key in enumerate(("fim_pre", "fim_suf", "fim_mid"), start=3):
        raw = raw.set(f"tokenizer.ggml.{key}_token_id", U32, token)
    path = tmp_path / "filler.gguf"
    path.write_bytes(raw.dump())
    filler = replace(mini(tmp_path / "kv"), name="filler", path=str(path))
    with serving([filler]) as url:
        client = Client(host=url)
        assert client.show("filler").capabilities == ["completion", "tools", "thinking", "insert"]
        counts = [
            client.generate("filler", text, raw=True, options=EXACT).prompt_eval_count or 0
            for text in ("The sky", " blue.")
        ]
        found = client.generate("filler", "The sky", suffix=" blue.", options=EXACT)
        assert found.response
        assert found.prompt_eval_count == sum(counts) + 3
        client.close()


# ---- how long models stay ------------------------------------------------------------------------


def test_a_model_stays_as_long_as_it_was_asked_to(tmp_path: Path) -> None:
    with serving([mini(tmp_path)]) as url:
        client = Client(host=url)
        assert client.ps().models == []
        before = datetime.now(UTC)
        answer = client.generate(MODEL, "")  # only loads
        assert (answer.done, answer.done_reason, answer.response) == (True, "load", "")
        (loaded,) = client.ps().models
        assert loaded.model == MODEL
        assert loaded.context_length == 2048
        assert loaded.size
        assert loaded.expires_at is not None
        assert 200 < (loaded.expires_at - before).total_seconds() < 400

        client.generate(MODEL, "Hello", options=EXACT, keep_alive="2h")
        (loaded,) = client.ps().models
        assert loaded.expires_at is not None
        assert 7000 < (loaded.expires_at - before).total_seconds() < 7400

        client.chat(MODEL, [], keep_alive=-1)
        (loaded,) = client.ps().models
        assert loaded.expires_at is not None
        assert loaded.expires_at.year > before.year + 50

        answer = client.chat(MODEL, [], keep_alive=0)
        assert answer.done_reason == "unload"
        assert client.ps().models == []
        assert client.chat(MODEL, [], keep_alive=0).done_reason == "unload"
        assert client.ps().models == []
        client.close()


def test_a_model_that_is_not_to_stay_goes_after_the_answer(tmp_path: Path) -> None:
    with serving([mini(tmp_path)]) as url:
        client = Client(host=url)
        question = [{"role": "user", "content": "Hello"}]
        assert client.chat(MODEL, question, options=EXACT, keep_alive=0).message.content
        until_unloaded(client)
        assert list(client.generate(MODEL, "Hello", options=EXACT, keep_alive=0, stream=True))
        until_unloaded(client)
        assert client.embed(MODEL, "Hello", keep_alive=0).embeddings
        until_unloaded(client)
        client.close()


def test_files_that_are_no_models(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 100)
    mine = mini(tmp_path / "kv")
    gone = ServedModel("gone", str(tmp_path / "gone.gguf"))
    bad = ServedModel("bad", str(broken))
    with serving([gone, bad, mine]) as url:
        client = Client(host=url)
        assert {one.model for one in client.list().models} == {"gone", "bad", MODEL}
        for name in ("gone", "bad"):
            for ask in (client.show, lambda name: client.chat(name, [])):
                with pytest.raises(ResponseError) as caught:
                    ask(name)
                assert caught.value.status_code in (404, 500)
                assert caught.value.error
        shutil.copy(path_of(MODEL) or "", tmp_path / "gone.gguf")  # it is found without a restart
        assert client.show("gone").details is not None
        client.close()


def test_the_asynchronous_client_sees_the_same(server: str) -> None:
    async def main() -> None:
        client = AsyncClient(host=server)
        assert (await client.show(MODEL)).capabilities
        assert len((await client.embed(MODEL, "Hello")).embeddings) == 1
        await client.ps()
        await client.close()

    asyncio.run(main())
