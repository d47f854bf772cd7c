"""The adapters load in llama.cpp and change what every kind of model says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelmaker import KINDS, build_adapter
from modelmaker.gguf_head import read_head

pytestmark = pytest.mark.native

Made = Callable[..., Path]
Load = Callable[..., Any]

GENERATING = [kind for kind in KINDS if kind != "bert"]


@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
@pytest.mark.parametrize("kind", GENERATING)
def test_adapters_change_the_text(
    tmp_path: Path, made: Made, load: Load, kind: str, quant: str
) -> None:
    base = made(kind, quant=quant)
    path = build_adapter(tmp_path / "adapter.gguf", base)
    with load(base) as model:
        prompt = model.tokens("The kettle is old and the tea was good.")
        before, logits = model.greedy(prompt, 20)
        adapter = model.adapter(path)
        after, _ = model.greedy(prompt, 20)
        assert sum(one != two for one, two in zip(before, after, strict=True)) > 10
        model.use(adapter, 0.0)
        assert np.array_equal(model.fresh(prompt), logits[0])


def test_weaker_adapters_change_less(tmp_path: Path, made: Made, load: Load) -> None:
    base = made("llama")
    changes = []
    with load(base) as model:
        prompt = model.tokens("The kettle is old")
        plain = model.fresh(prompt)
        for strength in (0.01, 0.1, 1.0):
            path = tmp_path / f"{strength}.gguf"
            model.adapter(build_adapter(path, base, strength=strength))
            changes.append(float(np.std(model.fresh(prompt) - plain)))
    assert 0 < changes[0] < changes[1] < changes[2]


def test_rank_and_tensors_are_those_asked_for(tmp_path: Path, made: Made) -> None:
    base = made("llama")
    path = build_adapter(tmp_path / "a.gguf", base, rank=2, alpha=3.0, tensors=["ffn_up"])
    head = read_head(path)
    assert head.metadata["adapter.lora.alpha"].value == 3.0
    assert len(head.tensors) == 2 * 4
    assert head.tensors["blk.3.ffn_up.weight.lora_a"].shape == (2, 128)
    assert head.tensors["blk.3.ffn_up.weight.lora_b"].shape == (256, 2)


def test_tensors_that_no_layer_has_are_told(tmp_path: Path, made: Made) -> None:
    with pytest.raises(ValueError, match="has none of the tensors attn_q"):
        build_adapter(tmp_path / "a.gguf", made("mamba"), tensors=["attn_q"])
