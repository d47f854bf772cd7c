"""Embeddings and positions of models of every kind: llama.cpp trusts what a file says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_files import F32, U32, RawFile, RawTensor, Save, array, parse
from gguf_native import Native

from samovar.errors import MalformedGGUF
from samovar.gguf import check, read_header
from tests.conftest import Models

WIDTH = 128  # of the models made here


def model(models: Models, kind: str, stated: int | None = None, **dense: int) -> RawFile:
    """A model that states a width, with matrices behind its last layer of so many rows."""
    file = parse(models(kind).read_bytes())
    columns, tensors = WIDTH, list(file.tensors)
    for name, rows in dense.items():
        data = bytes(4 * columns * rows)
        tensors.append(RawTensor(f"{name}.weight", (columns, rows), 0, data))
        columns = rows
    file = RawFile(file.pairs, tensors)
    return file if stated is None else file.set(f"{kind}.embedding_length_out", U32, stated)


@pytest.mark.parametrize("stated", [None, 0, WIDTH])
def test_the_width_may_be_stated(models: Models, save: Save, stated: int | None) -> None:
    check(read_header(save(model(models, "qwen2", stated))))


@pytest.mark.parametrize("kind", ["qwen2", "bert", "mamba", "lfm2"])
@pytest.mark.parametrize("stated", [1, WIDTH - 1, WIDTH + 1, 10**6, 10**9])
def test_a_width_that_no_matrix_makes_is_refused(
    models: Models, save: Save, kind: str, stated: int
) -> None:
    with pytest.raises(MalformedGGUF, match="embedding_length_out"):
        check(read_header(save(model(models, kind, stated))))


@pytest.mark.parametrize("rows", [64, 256])
def test_a_matrix_behind_the_last_layer_makes_another_width(
    models: Models, save: Save, rows: int
) -> None:
    check(read_header(save(model(models, "lfm2", rows, dense_2=rows))))
    with pytest.raises(MalformedGGUF, match=f"embeddings have {rows} numbers"):
        check(read_header(save(model(models, "lfm2", dense_2=rows))))
    with pytest.raises(MalformedGGUF, match="embeddings have 128 numbers"):
        check(read_header(save(model(models, "qwen2", rows, dense_2=rows))))


@pytest.mark.native
def test_the_reasons(models: Models, tmp_path: Path) -> None:
    files = {
        "loaded": model(models, "lfm2", 64, dense_2=64),
        "died with -6": model(models, "bert", WIDTH + 1),
    }
    path = tmp_path / "model.gguf"
    with Native() as native:
        for answer, file in files.items():
            path.write_bytes(file.dump())
            assert native.ask(path) == answer


@pytest.mark.parametrize("key", ["dimension_count", "dimension_count_swa"])
@pytest.mark.parametrize("value", [0, 1, 7, 34])
def test_what_cannot_be_rotated_is_refused(
    models: Models, save: Save, key: str, value: int
) -> None:
    """llama.cpp rotates nothing for ever, and asserts the rest."""
    file = parse(models("gemma2").read_bytes()).set(f"gemma2.rope.{key}", U32, value)
    with pytest.raises(MalformedGGUF, match=f": {value} elements of a head of 32 are rotated"):
        check(read_header(save(file)))


def test_layers_with_a_window_may_have_heads_of_their_own(models: Models, save: Save) -> None:
    file = parse(models("gemma2").read_bytes()).set("gemma2.rope.dimension_count_swa", U32, 16)
    check(read_header(save(file)))
    file = file.without("gemma2.rope.dimension_count_swa")
    with pytest.raises(MalformedGGUF, match=": 32 elements of a head of 16 are rotated"):
        check(read_header(save(file.set("gemma2.attention.key_length_swa", U32, 16))))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_sections_that_are_no_whole_numbers_are_none(
    models: Models, save: Save, value: float
) -> None:
    file = parse(models("qwen2").read_bytes())
    pairs = {**file.pairs, "qwen2.rope.dimension_sections": array(F32, [value] * 4)}
    check(read_header(save(RawFile(pairs, file.tensors))))
