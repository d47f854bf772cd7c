"""Whatever is wrong with a file, it is refused here or llama.cpp survives it.

`SAMOVAR_TEST_SCALE=full` runs thousands of damaged headers instead of hundreds.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from gguf_files import (
    ARRAY,
    BLOCKS,
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U32,
    VOCAB,
    Pair,
    RawFile,
    RawTensor,
    array,
    parse,
    retyped,
    scalar,
    text,
)
from gguf_native import Native
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samovar.errors import MalformedGGUF, SamovarError
from samovar.gguf import check, read_header
from tests.conftest import FULL_SCALE, Models, scaled

NUM_FLIPS = scaled(250, 5000)

Case = tuple[str, bytes]


@pytest.fixture(scope="module")
def native() -> Iterator[Native]:
    pytest.importorskip("llama_cpp")
    with Native() as child:
        yield child


def verdict(path: Path) -> str:
    """`passed`, or the line of the refusal; anything but a typed refusal fails the test."""
    try:
        check(read_header(path))
    except SamovarError as error:
        line = str(error)
    else:
        return "passed"
    assert "\n" not in line
    return line


def judge(cases: Iterable[Case], native: Native, path: Path) -> dict[str, int]:
    """Counts the answers; no case may end the child."""
    counts: dict[str, int] = {}
    deaths = []
    for name, data in cases:
        path.write_bytes(data)
        answer = native.ask(path) if verdict(path) == "passed" else "refused here"
        counts[answer] = counts.get(answer, 0) + 1
        if answer not in {"refused here", "refused", "no context", "loaded"}:
            deaths.append(f"{name}: {answer}")
    assert not deaths
    return counts


@pytest.mark.native
def test_the_valid_model_loads(llama_path: Path, native: Native) -> None:
    assert verdict(llama_path) == "passed"
    assert native.ask(llama_path) == "loaded"


def test_a_file_cut_anywhere_is_refused(llama: RawFile, tmp_path: Path) -> None:
    data, rng = llama.dump(), random.Random(20)
    path = tmp_path / "cut.gguf"
    # The last tensor ends with its padding; before that every byte is needed.
    for length in [rng.randrange(len(data) - 32) for _ in range(20)]:
        path.write_bytes(data[:length])
        with pytest.raises(MalformedGGUF):
            check(read_header(path))


def flipped(llama: RawFile) -> Iterator[Case]:
    """One to four bytes of the header changed: a bit, or to anything."""
    data, size = llama.dump(), llama.header_size
    for seed in range(NUM_FLIPS):
        rng, damaged = random.Random(seed), bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at = rng.randrange(size)
            bit = damaged[at] ^ 1 << rng.randrange(8)
            damaged[at] = rng.choice((bit, bit, rng.randrange(256), 0, 255))
        yield f"flip {seed}", bytes(damaged)


@pytest.mark.native
def test_flipped_bytes_of_the_header(llama: RawFile, native: Native, tmp_path: Path) -> None:
    counts = judge(flipped(llama), native, tmp_path / "flip.gguf")
    # Most of what is let through is a changed letter or score.
    assert counts["refused here"] > 10
    assert counts["loaded"] > 10


NUMBERS = (0, 1, 2, 3, 7, 8, 33, 65, 511, 513, 65536, 10**9, 2**31 - 1, 2**31, 2**32 - 1)
FLOATS = (0.0, -1.0, 1e-30, 1e30, math.nan, math.inf, -math.inf)
STRINGS = ("", "x", "none", "gpt2", "bert", "t5", "rwkv", "plamo2", "test", "mamba", "qwen2")
# Keys that the model does not have, and that steer llama.cpp where it finds them.
ADDED = {
    "llama.expert_count": scalar(U32, 8),
    "llama.expert_used_count": scalar(U32, 2),
    "llama.attention.key_length": scalar(U32, 8),
    "llama.attention.value_length": scalar(U32, 8),
    "llama.rope.scaling.type": scalar(STRING, "yarn"),
    "llama.rope.scaling.factor": scalar(F32, 4.0),
    "llama.rope.scaling.original_context_length": scalar(U32, 64),
    "llama.vocab_size": scalar(U32, VOCAB),
    "llama.pooling_type": scalar(U32, 1),
    "llama.attention.causal": scalar(BOOL, value=False),
    "llama.attention.sliding_window": scalar(U32, 16),
    "llama.nextn_predict_layers": scalar(U32, 1),
    "llama.embedding_length_out": scalar(U32, 32),
    "llama.rope.dimension_count": scalar(U32, 8),
    "llama.rope.dimension_count_swa": scalar(U32, 8),
    "llama.rope.dimension_sections": array(I32, [1, 1, 1, 1]),
    "tokenizer.ggml.pre": scalar(STRING, "llama-bpe"),
    "tokenizer.ggml.add_bos_token": scalar(BOOL, value=True),
    "tokenizer.ggml.add_space_prefix": scalar(BOOL, value=False),
    "general.alignment": scalar(U32, 32),
    "split.count": scalar(2, 2),
}


def spoiled(pair: Pair) -> Iterator[Pair]:
    """Other values, and the same value in other types."""
    kind = pair[0]
    yield from (scalar(U8, 1), scalar(STRING, "x"), array(U32, [1]), array(STRING, []))
    if kind == U32:
        yield from (scalar(U32, value) for value in NUMBERS)
        yield from (scalar(other, 2) for other in (I32, 10, F32))
        yield from (array(U32, values) for values in ([2, 2], [2, 0], [0, 2], [2**31] * 2))
    if kind == F32:
        yield from (scalar(F32, value) for value in FLOATS)
    if kind == STRING:
        yield from (scalar(STRING, value) for value in STRINGS)
    if kind == ARRAY:
        _, count = struct.unpack_from("<IQ", pair[1])
        yield from (array(I32, [value] * count) for value in (0, 1, 3, 6, 7, -1))
        yield from (array(F32, [value] * count) for value in FLOATS)
        yield from (array(STRING, [f"{i}" * n for i in range(count)]) for n in (0, 1, 100))


def absurd(model: RawFile, architecture: str = "llama") -> dict[str, RawFile]:
    added = {key.replace("llama.", f"{architecture}."): pair for key, pair in ADDED.items()}
    cases = {f"without {key}": model.without(key) for key in model.pairs}
    for key, pair in {**model.pairs, **added}.items():
        for number, other in enumerate(spoiled(pair)):
            cases[f"{key} #{number}"] = RawFile({**model.pairs, key: other}, model.tensors)
    for key, pair in added.items():
        cases[f"with {key}"] = RawFile({**model.pairs, key: pair}, model.tensors)
    return cases


@pytest.mark.native
def test_absurd_metadata(llama: RawFile, native: Native, tmp_path: Path) -> None:
    cases = ((name, file.dump()) for name, file in absurd(llama).items())
    judge(cases, native, tmp_path / "absurd.gguf")


@pytest.mark.native
@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "lfm2", "mamba", "bert"])
def test_absurd_metadata_of_other_kinds(
    models: Models, native: Native, tmp_path: Path, kind: str
) -> None:
    cases = absurd(parse(models(kind).read_bytes()), kind)
    chosen = random.Random(kind).sample(sorted(cases), scaled(50, len(cases)))
    judge(((name, cases[name].dump()) for name in chosen), native, tmp_path / "absurd.gguf")


def misshapen(llama: RawFile) -> Iterator[Case]:
    """Each tensor missing, of another type, of another shape; the rest consistent with it."""
    for index, tensor in enumerate(llama.tensors):
        others = llama.tensors[:index] + llama.tensors[index + 1 :]
        yield f"no {tensor.name}", llama.with_tensors(others).dump()
        for type_id, (elements, _) in BLOCKS.items():
            if tensor.shape[0] % elements == 0:
                other = retyped(tensor, type_id)
                yield f"{tensor.name} as {type_id}", llama.replace(tensor.name, other).dump()
        for shape in ((*tensor.shape, 1), tensor.shape[::-1], (math.prod(tensor.shape),), (1, 1)):
            other = RawTensor(tensor.name, shape, 0, bytes(4 * math.prod(shape)))
            yield f"{tensor.name} {shape}", llama.replace(tensor.name, other).dump()


@pytest.mark.native
def test_misshapen_tensors(llama: RawFile, native: Native, tmp_path: Path) -> None:
    judge(misshapen(llama), native, tmp_path / "misshapen.gguf")


def small_alignment(llama: RawFile) -> RawFile:
    aligned = llama.set("general.alignment", U32, 8)
    # A key of odd length, so that the data does not begin at a multiple of 32 by luck.
    return RawFile(aligned.set("x", U8, 1).pairs, llama.tensors, alignment=8)


def with_array(llama: RawFile, name: str, index: int, value: str) -> RawFile:
    tokens = [f"t{i}" for i in range(VOCAB)]
    tokens[index] = value
    return llama.set_array(f"tokenizer.ggml.{name}", STRING, tokens)


def lethal(llama: RawFile) -> dict[str, RawFile]:
    """What ends the process, and is refused for that: the reasons of the checks, proved."""
    normal = llama.set_array("tokenizer.ggml.token_type", I32, [1] * VOCAB)
    return {
        "too many layers": llama.set("llama.block_count", U32, 513),
        "no layers": llama.set("llama.block_count", U32, 0),
        "experts unused": llama.set("llama.expert_count", U32, 8),
        "unknown scaling": llama.set("llama.rope.scaling.type", STRING, "x"),
        "negative epsilon": llama.set("llama.attention.layer_norm_rms_epsilon", F32, -1.0),
        "unknown pooling": llama.set("llama.pooling_type", U32, 9),
        "repeated token": with_array(normal, "tokens", 5, "t6"),
        "no bytes": with_array(normal, "tokens", 5, "x"),
        "byte token of wpm": llama.set("tokenizer.ggml.model", STRING, "bert"),
        "no tokenizer": llama.set("tokenizer.ggml.model", STRING, "none").set(
            "llama.vocab_size", U32, VOCAB
        ),
        "integer weights": llama.replace(
            "output.weight", retyped(llama.tensor("output.weight"), 26)
        ),
        "half-precision norm": llama.replace(
            "output_norm.weight", retyped(llama.tensor("output_norm.weight"), 1)
        ),
        "small alignment": small_alignment(llama),
    }


@pytest.mark.native
def test_llama_cpp_does_not_survive_what_is_refused(
    llama: RawFile, native: Native, tmp_path: Path
) -> None:
    path = tmp_path / "lethal.gguf"
    cases = list(lethal(llama).items())
    for name, file in cases if FULL_SCALE else cases[::6]:  # each costs a process
        path.write_bytes(file.dump())
        assert verdict(path) != "passed", name
        assert native.ask(path).startswith("died"), name


def test_what_is_lethal_is_refused(llama: RawFile, tmp_path: Path) -> None:
    path = tmp_path / "lethal.gguf"
    for name, file in lethal(llama).items():
        path.write_bytes(file.dump())
        assert verdict(path) != "passed", name


EXAMPLES = settings(
    max_examples=scaled(150, 1000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@EXAMPLES
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.gguf"
    for content in (data, b"GGUF" + data, b"GGUF\x03\0\0\0" + data):
        path.write_bytes(content)
        assert verdict(path) != "passed"


@EXAMPLES
@given(num_pairs=st.integers(0, 5), body=st.lists(st.sampled_from(range(13)), max_size=12))
def test_any_pairs_are_refused(tmp_path: Path, num_pairs: int, body: list[int]) -> None:
    path = tmp_path / "pairs.gguf"
    pairs = b"".join(text(f"k{i}") + kind.to_bytes(4, "little") for i, kind in enumerate(body))
    path.write_bytes(b"GGUF\x03\0\0\0" + bytes(8) + num_pairs.to_bytes(8, "little") + pairs)
    assert verdict(path) != "passed"


@EXAMPLES
@given(share=st.floats(0, 1, exclude_max=True))
def test_any_beginning_of_a_file_is_refused(llama: RawFile, tmp_path: Path, share: float) -> None:
    data = llama.dump()
    path = tmp_path / "prefix.gguf"
    path.write_bytes(data[: int(share * (len(data) - 32))])
    assert verdict(path) != "passed"


@EXAMPLES
@given(at=st.integers(0, 9000), piece=st.binary(max_size=24))
def test_any_bytes_inside_a_header_are_no_surprise(
    llama: RawFile, tmp_path: Path, at: int, piece: bytes
) -> None:
    data = llama.dump()
    path = tmp_path / "patched.gguf"
    path.write_bytes(data[:at] + piece + data[at + len(piece) :])
    verdict(path)
