"""Model files read back: each weight where it was, and nothing of a stranger's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import quantize
from hypothesis import given
from hypothesis import strategies as st

from samovar.models import path_of
from tests.conftest import Models
from training import modelfile
from training.layout import file_names, from_file, halved, interleaved, to_file
from training.shape import Shape


@pytest.fixture
def mini() -> Path:
    path = path_of("samovar-mini")
    assert path is not None
    return path


@given(heads=st.integers(1, 4), pairs=st.integers(1, 4), columns=st.integers(1, 3))
def test_rows_come_back_to_their_places(heads: int, pairs: int, columns: int) -> None:
    matrix = np.arange(heads * 2 * pairs * columns, dtype=np.float32).reshape(-1, columns)
    assert np.array_equal(halved(interleaved(matrix, 2 * pairs), 2 * pairs), matrix)
    assert np.array_equal(interleaved(halved(matrix, 2 * pairs), 2 * pairs), matrix)


def test_pairs_are_neighbours_in_a_file_and_half_a_head_apart_here() -> None:
    rows = np.arange(16, dtype=np.float32).reshape(16, 1)
    assert interleaved(rows, 8)[:, 0].tolist() == [
        0, 4, 1, 5, 2, 6, 3, 7,
        8, 12, 9, 13, 10, 14, 11, 15,
    ]  # fmt: skip


def test_only_queries_and_keys_have_other_rows() -> None:
    shape = Shape(vocabulary=3, width=8, layers=1, heads=2, kv_heads=1, feed_forward=2)
    weights = {name: np.arange(64, dtype=np.float32).reshape(8, 8) for name in file_names(shape)}
    written = to_file(weights, shape)
    changed = {
        name for name, one in written.items() if not np.array_equal(one, weights["norm.weight"])
    }
    assert changed == {"blk.0.attn_q.weight", "blk.0.attn_k.weight"}
    read = from_file(written, shape)
    assert all(np.array_equal(read[name], one) for name, one in weights.items())


def test_the_shipped_file_is_read_as_what_it_was_written_of(mini: Path) -> None:
    file = modelfile.read(mini)
    shape = file.shape
    assert file.weights["embedding.weight"].shape == (shape.vocabulary, shape.width)
    assert set(file.weights) == set(file_names(shape))
    assert len(file.texts) == len(set(file.texts)) == shape.vocabulary
    assert all(first + second in file.texts for first, second in file.merges)
    written = to_file(file.weights, shape)
    for one in GGUFReader(mini).tensors:
        again = quantize(written[one.name], one.tensor_type)
        assert np.array_equal(again.view(np.uint8), one.data.view(np.uint8)), one.name
    assert {one.tensor_type for one in GGUFReader(mini).tensors} == {
        GGMLQuantizationType.F32,
        GGMLQuantizationType.Q8_0,
    }


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_file_that_is_not_ours_is_refused(models: Models, kind: str) -> None:
    with pytest.raises(ValueError, match=r"model file has no|other names"):
        modelfile.read(models(kind))
