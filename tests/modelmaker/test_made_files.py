"""The files: the same bytes for the same arguments, whole or not there, of the types asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from modelmaker import KINDS, QUANTIZATIONS, SHAPES, build_adapter, build_model, build_vocab_only
from modelmaker.gguf_head import read_head
from modelmaker.quantization import chunks
from modelmaker.tensor import Matrix

Made = Callable[..., Path]


@pytest.mark.parametrize("quant", QUANTIZATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_arguments_same_bytes(tmp_path: Path, made: Made, kind: str, quant: str) -> None:
    again = build_model(tmp_path / "again.gguf", kind, quant=quant)
    assert again.read_bytes() == made(kind, quant=quant).read_bytes()


def test_adapters_and_vocabularies_are_repeated_too(tmp_path: Path, made: Made) -> None:
    one, two = (build_adapter(tmp_path / name, made("llama")) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    one, two = (build_vocab_only(tmp_path / name, "spm") for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_other_seed_other_weights(made: Made) -> None:
    one, two = made("llama"), made("llama", seed=1)
    assert one.stat().st_size == two.stat().st_size
    assert one.read_bytes() != two.read_bytes()


@pytest.mark.parametrize("quant", QUANTIZATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_matrices_have_the_type_asked_for(made: Made, kind: str, quant: str) -> None:
    tensors = read_head(made(kind, quant=quant)).tensors.values()
    always_plain = re.compile(r"norm|bias|conv\.weight|conv1d|ssm_[ad]$|ssm_dt|position|types")
    for tensor in tensors:
        plain = always_plain.search(tensor.name)
        assert tensor.kind == (Kind.F32 if plain else Kind[quant]), tensor.name


@pytest.mark.parametrize("kind", KINDS)
def test_our_reader_agrees_with_that_of_the_package(made: Made, kind: str) -> None:
    path = made(kind, quant="Q8_0", chat_template="chatml")
    ours, theirs = read_head(path), gguf.GGUFReader(path)
    read = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert {key: value.value for key, value in ours.metadata.items()} == read
    assert [
        (t.name, t.shape, t.kind, t.start) for t in ours.tensors.values()
    ] == [
        (t.name, tuple(t.shape.tolist())[::-1], t.tensor_type, t.data_offset)
        for t in theirs.tensors
    ]  # fmt: skip
    assert ours.architecture == kind


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0])
def test_random_blocks_have_the_deviation_of_normal_numbers(kind: Kind) -> None:
    matrix = Matrix("some", 64, 2048, 0.3, np.linspace(0.5, 1, 64, dtype=np.float32))
    for direct in (False, True):
        packed = np.concatenate(list(chunks(matrix, kind, 0, direct=direct)))
        rows = gguf.quants.dequantize(packed.reshape(64, -1), kind)
        assert rows.std() == pytest.approx(0.3 * 0.763, rel=0.03)
        assert rows[-1].std() == pytest.approx(2 * rows[0].std(), rel=0.1)
    codes = packed.reshape(-1, 34)[:, 2:].view(np.int8) if kind == Kind.Q8_0 else None
    assert codes is None or codes.min() == -127


def test_the_tiny_shape_is_small_and_wide_enough_for_every_product() -> None:
    tiny = SHAPES["tiny"]
    for width in (tiny.width, tiny.kv_width, tiny.feed_forward, tiny.vocabulary_size):
        assert width % 64 == 0
    assert tiny.kv_heads < tiny.heads


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "gpt9"}, "unknown kind 'gpt9', expected one of llama"),
        ({"quant": "Q9"}, "unknown quantisation 'Q9', expected one of F32"),
        ({"shape": "huge"}, "unknown shape 'huge', expected one of tiny"),
        ({"kind": "mamba", "shape": "1b"}, "the shape '1b' is for llama only"),
        ({"pooling": "max"}, "unknown pooling 'max', expected one of none"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, arguments: dict[str, str], message: str) -> None:
    options: dict[str, str] = {"kind": "llama"} | arguments
    kind = options.pop("kind")
    with pytest.raises(ValueError, match=message):
        build_model(tmp_path / "out" / "none.gguf", kind, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_failed_build_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_options: object) -> list[object]:
        return []

    monkeypatch.setattr("modelmaker.model.chunks", broken)
    with pytest.raises(AssertionError, match=r"token_embd\.weight: 0 bytes"):
        build_model(tmp_path / "out" / "none.gguf", "llama")
    assert not list((tmp_path / "out").iterdir())


def test_no_gguf_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("tea")
    with pytest.raises(ValueError, match="is not a GGUF file"):
        read_head(path)
