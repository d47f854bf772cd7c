from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf_files import F32, STRING, U32, RawFile, RawTensor, Save, retyped
from gguf_native import Native

from samovar.errors import AdapterRejected
from samovar.gguf import check_adapter, read_header

RANK = 4


def half(name: str, *shape: int) -> RawTensor:
    return RawTensor(name, shape, 0, bytes(4 * math.prod(shape)))


def adapter() -> RawFile:
    """Rank 4, for the queries of the first layer and the embedding of the tiny llama."""
    tensors = [
        half("blk.0.attn_q.weight.lora_a", 32, RANK),
        half("blk.0.attn_q.weight.lora_b", RANK, 32),
        half("token_embd.weight.lora_a", RANK, 320),
        half("token_embd.weight.lora_b", RANK, 32),
    ]
    file = RawFile({}, tensors).set("general.type", STRING, "adapter")
    file = file.set("general.architecture", STRING, "llama").set("adapter.type", STRING, "lora")
    return file.set("adapter.lora.alpha", F32, 8.0)


def without(name: str) -> RawFile:
    return adapter().with_tensors([t for t in adapter().tensors if t.name != name])


def with_half(name: str, *shape: int) -> RawFile:
    return adapter().replace(name, half(name, *shape))


A, B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"
REJECTED = {
    "not an adapter": adapter().set("adapter.type", STRING, "control"),
    "of type uint32, not string": adapter().set("adapter.type", U32, 1),
    "not float32": adapter().set("adapter.lora.alpha", STRING, "8"),
    "is nan": adapter().set("adapter.lora.alpha", F32, math.nan),
    "it is for qwen2, and the model is llama": adapter().set(
        "general.architecture", STRING, "qwen2"
    ),
    "only one of its two halves": without(A),
    "changes no tensor": adapter().with_tensors([]),
    "not part of a LoRA": adapter().with_tensors(
        [*adapter().tensors, half("output.weight", 32, 320)]
    ),
    "rank 5 and 4": with_half(A, 32, 5),
    "rank 3 and 4": with_half("token_embd.weight.lora_a", 3, 320),
    "not made of matrices": with_half(B, RANK),
    "does not fit the model": with_half(B, RANK, 33),
    "blk.0.attn_q.weight does not fit": with_half(A, 32, RANK, 2),
    "blk.9.attn_q.weight does not fit": adapter().with_tensors(
        [half(t.name.replace(".0.", ".9."), *t.shape) for t in adapter().tensors]
    ),
    "weights cannot be": adapter().replace(A, retyped(half(A, 32, RANK), 26)),
}


def test_an_adapter_that_fits_passes(llama_path: Path, save: Save) -> None:
    header = read_header(save(adapter()))
    assert header.is_adapter
    check_adapter(header)
    check_adapter(header, read_header(llama_path))


@pytest.mark.parametrize("words", REJECTED)
def test_other_files_are_rejected(llama_path: Path, save: Save, words: str) -> None:
    with pytest.raises(AdapterRejected, match=words) as raised:
        check_adapter(read_header(save(REJECTED[words])), read_header(llama_path))
    assert "\n" not in str(raised.value)


def test_a_cut_adapter_is_rejected(save: Save) -> None:
    path = save(adapter())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(AdapterRejected, match="cut short"):
        check_adapter(read_header(path))


def tied(llama: RawFile) -> RawFile:
    return llama.with_tensors([t for t in llama.tensors if t.name != "output.weight"])


def test_an_embedding_that_is_also_the_output_is_left_alone(
    llama: RawFile, tmp_path: Path, save: Save
) -> None:
    base = tmp_path / "tied.gguf"
    base.write_bytes(tied(llama).dump())
    with pytest.raises(AdapterRejected, match="shares its embedding"):
        check_adapter(read_header(save(adapter())), read_header(base))


@pytest.fixture(scope="module")
def native() -> Iterator[Native]:
    pytest.importorskip("llama_cpp")
    with Native() as child:
        yield child


@pytest.mark.native
def test_an_adapter_that_passes_works(llama_path: Path, save: Save, native: Native) -> None:
    assert native.ask(llama_path, save(adapter())) == "loaded"


@pytest.mark.native
def test_llama_cpp_does_not_survive_these(
    llama: RawFile, llama_path: Path, tmp_path: Path, save: Save, native: Native
) -> None:
    base = tmp_path / "tied.gguf"
    base.write_bytes(tied(llama).dump())
    for model, words in ((llama_path, "not float32"), (llama_path, "rank 3 and 4")):
        assert native.ask(model, save(REJECTED[words])).startswith("died"), words
    assert native.ask(base, save(adapter())).startswith("died")
