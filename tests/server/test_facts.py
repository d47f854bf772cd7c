"""What is known of models without loading them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from samovar import gguf
from samovar.api.facts import Infill, ModelFacts, params_label
from samovar.models import path_of
from samovar.server.facts import FactsReader
from tests.conftest import Models
from tests.gguf.gguf_files import STRING, U32, parse

MINI = path_of("samovar-mini") or Path()


def facts(file: Path, reader: FactsReader | None = None) -> ModelFacts:
    return asyncio.run((reader or FactsReader()).facts("mini", file))


def metadata(file: Path) -> dict[str, object]:
    return dict(asyncio.run(FactsReader().metadata(file)))


def test_what_a_header_says() -> None:
    found = facts(MINI)
    assert found.name == "mini"
    assert (found.architecture, found.family, found.quantization) == ("llama", "llama", "Q8_0")
    assert (found.num_params, found.params_label) == (4213504, "4.2M")
    assert (found.context_length, found.embedding_width) == (2048, 256)
    assert found.size_bytes == MINI.stat().st_size
    assert found.modified == int(MINI.stat().st_mtime)
    assert found.capabilities == ("completion", "tools", "thinking")
    assert found.license == "MIT"
    assert found.template is not None
    assert found.problem is None
    assert not found.is_embedder


def test_metadata_is_json_without_the_vocabulary() -> None:
    found = metadata(MINI)
    assert found["llama.block_count"] == 5
    assert found["general.languages"] == ["en"]
    assert found["tokenizer.ggml.tokens"] is None
    assert len(json.dumps(found)) < 2**14


@pytest.mark.parametrize(
    ("kind", "capability"),
    [("llama", "completion"), ("bert", "embedding"), ("qwen2", "completion")],
)
def test_what_a_model_was_made_for(models: Models, kind: str, capability: str) -> None:
    assert facts(models(kind)).capabilities[0] == capability


KEYS = ("fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id")
OLD_KEYS = ("prefix_token_id", "suffix_token_id", "middle_token_id")


@pytest.mark.parametrize("keys", [KEYS, OLD_KEYS])
def test_what_stands_around_what_is_filled_in(tmp_path: Path, keys: tuple[str, ...]) -> None:
    assert facts(MINI).infill is None
    raw = parse(MINI.read_bytes())
    for token, key in enumerate(keys):
        path = tmp_path / f"{token}.gguf"
        raw = raw.set(f"tokenizer.ggml.{key}", U32, token)
        path.write_bytes(raw.dump())
        found = facts(path)
        is_whole = token == 2
        assert found.infill == (Infill(0, 1, 2) if is_whole else None)
        assert ("insert" in found.capabilities) == is_whole


def test_tokens_that_only_their_text_names(tmp_path: Path, models: Models) -> None:
    raw = parse(models("llama").read_bytes())
    texts = list(gguf.read_header(models("llama")).strings("tokenizer.ggml.tokens"))
    texts[7:10] = ["<|fim_middle|>", "<|fim_prefix|>", "<|fim_suffix|>"]
    path = tmp_path / "model.gguf"
    path.write_bytes(raw.set_array("tokenizer.ggml.tokens", STRING, texts).dump())
    assert facts(path).infill == Infill(prefix=8, suffix=9, middle=7)


def test_the_digest_is_of_the_contents(tmp_path: Path, models: Models) -> None:
    copy = tmp_path / "copy.gguf"
    shutil.copy(MINI, copy)
    assert facts(copy).digest == facts(MINI).digest
    first, second = facts(models("llama", seed=1)), facts(models("llama", seed=2))
    assert first.size_bytes == second.size_bytes
    assert first.digest != second.digest
    assert len(first.digest) == 64


def missing(_: Path) -> None:
    """No file at all."""


def broken(path: Path) -> None:
    path.write_bytes(b"GGUF" + b"\xff" * 60)


def cut_short(path: Path) -> None:
    path.write_bytes(MINI.read_bytes()[:30_000])


def without_its_last_weights(path: Path) -> None:
    path.write_bytes(MINI.read_bytes()[:-30_000])


def folder(path: Path) -> None:
    path.mkdir()


def unreadable_text(path: Path) -> None:
    path.write_text("not a model at all")


@pytest.mark.parametrize(
    "make",
    [missing, broken, cut_short, without_its_last_weights, folder, unreadable_text],
)
def test_a_file_that_is_no_model_has_facts_that_say_so(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "secret" / "model.gguf"
    path.parent.mkdir()
    make(path)
    found = facts(path)
    assert found.problem
    assert "secret" not in found.problem
    assert found.capabilities == ()
    assert metadata(path) == {}


def test_a_file_is_read_again_once_it_is_another(tmp_path: Path, models: Models) -> None:
    path, reader = tmp_path / "model.gguf", FactsReader()
    assert facts(path, reader).problem
    shutil.copy(MINI, path)
    assert facts(path, reader).params_label == "4.2M"
    shutil.copy(models("qwen2"), path)
    os.utime(path, ns=(1, 1))
    assert facts(path, reader).architecture == "qwen2"
    path.unlink()
    assert facts(path, reader).problem


@pytest.mark.parametrize(
    ("count", "label"),
    [(0, ""), (999, "999"), (1_500, "1.5K"), (4_213_504, "4.2M"), (7_615_616_512, "7.6B")],
)
def test_labels(count: int, label: str) -> None:
    assert params_label(count) == label
