"""The models load in llama.cpp, and what they say is fit to test with."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelmaker import KINDS, QUANTIZATIONS, build_model
from modelmaker.gguf_head import read_head
from modelmaker.model import RANKING

pytestmark = pytest.mark.native

Made = Callable[..., Path]
Load = Callable[..., Any]

GENERATING = [kind for kind in KINDS if kind != "bert"]
PROMPTS = ["The kettle is old and the tea was good.", "Once there was", "1 + 2 = 3\nZürich"]
LENGTH = 100


@pytest.mark.parametrize("quant", QUANTIZATIONS)
@pytest.mark.parametrize("kind", GENERATING)
def test_every_kind_and_quantisation_generates(
    made: Made, load: Load, kind: str, quant: str
) -> None:
    with load(made(kind, quant=quant)) as model:
        tokens, logits = model.greedy(model.tokens(PROMPTS[0]), LENGTH)
        assert all(np.isfinite(values).all() for values in logits)
        assert not any(model.ends(token) for token in tokens)
        assert model.text(tokens).decode().replace("\n", "").isprintable()
        assert len(set(tokens)) > LENGTH / 4


@pytest.mark.parametrize("kind", GENERATING)
def test_greedy_text_is_varied_and_decided(made: Made, load: Load, kind: str) -> None:
    gaps: list[float] = []
    with load(made(kind)) as model:
        for prompt in PROMPTS:
            tokens, logits = model.greedy(model.tokens(prompt), LENGTH)
            gaps += [float(np.diff(np.partition(values, -2)[-2:])[0]) for values in logits]
            assert max(len(list(run)) for _, run in groupby(tokens)) < LENGTH / 5
    assert np.mean(np.abs(gaps) < 0.01) < 0.02
    assert np.median(gaps) > 0.5


@pytest.mark.parametrize("place", [0, 100, 199])
@pytest.mark.parametrize("kind", GENERATING)
def test_each_token_of_a_long_prompt_matters(made: Made, load: Load, kind: str, place: int) -> None:
    prompt = [int(token) for token in np.random.default_rng(1).integers(0, 256, 200)]
    other = [*prompt[:place], (prompt[place] + 7) % 256, *prompt[place + 1 :]]
    with load(made(kind)) as model:
        assert np.abs(model.fresh(prompt) - model.fresh(other)).max() > 0.1


def test_the_kinds_have_the_memory_they_stand_for(made: Made, load: Load) -> None:
    found = {}
    for kind in KINDS:
        with load(made(kind)) as model:
            native = model.native
            found[kind] = (
                bool(native.llama_model_is_recurrent(model.model)),
                bool(native.llama_model_is_hybrid(model.model)),
                native.llama_model_n_swa(model.model),
            )
    assert found == {
        "llama": (False, False, 0),
        "qwen2": (False, False, 0),
        "qwen3": (False, False, 0),
        "gemma2": (False, False, 64),
        "lfm2": (False, True, 0),
        "mamba": (True, False, 0),
        "bert": (False, False, 0),
    }


@pytest.mark.parametrize("quant", QUANTIZATIONS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_bert_gives_embeddings(made: Made, load: Load, quant: str, pooling: str) -> None:
    with load(made("bert", quant=quant, pooling=pooling), embeddings=True) as model:
        vectors = [model.embedding(prompt) for prompt in PROMPTS]
        assert np.isfinite(vectors).all()
        assert vectors[0] @ vectors[1] < 0.95
        assert vectors[0] @ model.embedding(PROMPTS[0]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("pooling_type", [1, 3])
@pytest.mark.parametrize("kind", GENERATING)
def test_generating_kinds_pool_when_asked(
    made: Made, load: Load, kind: str, pooling_type: int
) -> None:
    with load(made(kind), embeddings=True, pooling_type=pooling_type) as model:
        vectors = [model.embedding(prompt) for prompt in PROMPTS]
        assert vectors[0] @ vectors[1] < 0.95


@pytest.mark.parametrize("quant", QUANTIZATIONS)
@pytest.mark.parametrize("kind", RANKING)
def test_a_reranker_has_a_head_that_llama_cpp_knows(
    made: Made, load: Load, kind: str, quant: str
) -> None:
    path = made(kind, quant=quant, pooling="rank")
    with load(path, embeddings=True, pooling_type=4) as model:
        assert model.native.llama_model_n_cls_out(model.model) == (2 if kind == "qwen3" else 1)
    assert read_head(path).metadata[f"{kind}.pooling_type"].value == 4


def test_a_kind_without_a_head_cannot_rank(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bert and qwen3"):
        build_model(tmp_path / "no.gguf", "llama", pooling="rank")


def test_pooling_is_written_where_asked(made: Made) -> None:
    kind = read_head(made("llama", pooling="last")).metadata["llama.pooling_type"].value
    assert kind == 3
    assert "llama.pooling_type" not in read_head(made("llama")).metadata
    assert read_head(made("bert")).metadata["bert.pooling_type"].value == 1


def test_strong_special_tokens_end_texts(made: Made, load: Load) -> None:
    with load(made("llama", special_gain=2.0)) as model:
        tokens, _ = model.greedy(model.tokens(PROMPTS[0]), LENGTH)
        assert any(model.ends(token) for token in tokens)


def test_raw_bytes_make_broken_text(made: Made, load: Load) -> None:
    with load(made("llama", raw_bytes=True)) as model:
        tokens, _ = model.greedy(model.tokens(PROMPTS[0]), LENGTH)
        with pytest.raises(UnicodeDecodeError):
            model.text(tokens).decode()


def test_a_context_of_the_length_asked_for(made: Made, load: Load) -> None:
    for kind in KINDS:
        with load(made(kind, context_length=96), n_ctx=64) as model:
            assert model.native.llama_model_n_ctx_train(model.model) == 96


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0"])
def test_blocks_made_at_random_generate(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch, quant: str
) -> None:
    from modelmaker.shape import SHAPES, TINY

    monkeypatch.setitem(SHAPES, "small", SHAPES[TINY])
    path = build_model(tmp_path / "direct.gguf", "llama", shape="small", quant=quant)
    with load(path) as model:
        tokens, _ = model.greedy(model.tokens(PROMPTS[0]), LENGTH)
        assert len(set(tokens)) > LENGTH / 4
