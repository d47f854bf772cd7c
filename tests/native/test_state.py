"""The state of a sequence: out as bytes and back, in every layout, for every kind of model.

In lanes what was restored is the same to the bit, whoever else is resident; the prompts here are
one token longer than the grid of chunks, so that computing the last token again is the same call.
Where attention groups cells by address and these are others than before, the difference is at most
NOISE: in the pool, and in a sliding window that went round in its cells (`full_window` does not).
"""

from __future__ import annotations

import itertools
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import llama_cpp.llama_cpp as ll
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from modelmaker.gguf_file import listing
from modelmaker.kinds.qwen2 import qwen2_plan
from modelmaker.model import KINDS as MADE
from modelmaker.plan import Order, Plan
from samovar.errors import LoadFailed, OperationUnsupported, SamovarError, StateRejected
from samovar.gguf import Header
from samovar.native import state
from samovar.native.context import Context, ContextOptions
from samovar.native.interface import NoRoom, Range, Row, StateKind, Stepped
from samovar.native.llama import LlamaBackend
from samovar.native.model import Model
from tests.conftest import Models, scaled
from tests.native.test_backend import (
    NOISE,
    OPTIONS,
    forced,
    greedy,
    logits_of,
    opened,
    prime,
    prompt,
    put,
)
from tests.unit.test_weightless import Walk

pytestmark = pytest.mark.native

LAYOUTS = ("lanes", "pool")
WINDOWED, WHOLE = "gemma2", "gemma2 with its whole window"
RANGED = ("llama", "qwen2", WINDOWED, WHOLE, "lfm2")
KINDS = (*RANGED, "mamba")
TAILED = (WINDOWED, WHOLE, "lfm2")
LENGTH = 257
"""Of prompts: four times the sliding window, four chunks of the grid and a token."""


@contextmanager
def open_kind(
    models: Models, kind: str, quant: str = "F16", **options: object
) -> Iterator[tuple[LlamaBackend, Context]]:
    """A backend with a context of 1,024 cells, which is room for all in the pool, too."""
    more = {"context_length": 1024, "full_window": kind == WHOLE} | options
    with opened(models(kind.split()[0], quant), **more) as both:
        yield both


def same(
    found: np.ndarray, expected: np.ndarray, kind: str, layout: str, quant: str = "F16"
) -> bool:
    """Bit-identical where cells lie as before; within the measured noise elsewhere."""
    if layout == "lanes" and kind != WINDOWED:
        return bool(np.array_equal(found, expected))
    return float(np.abs(found - expected).max()) <= NOISE[quant]


def neighbours(backend: LlamaBackend, seq_ids: tuple[int, ...] = (0, 3)) -> None:
    """Others move into the context and step."""
    for seq_id in seq_ids:
        put(backend, seq_id, prompt(70 + seq_id, seq_id))
    backend.step([Row(seq_id, [9]) for seq_id in seq_ids])


def bring_logits_back(backend: LlamaBackend, seq_id: int) -> None:
    """After `kv_unpack`: the primer where the last token can be taken away."""
    if backend.state_kind is StateKind.DIVISIBLE:
        assert not backend.has_logits(seq_id)
        prime(backend, seq_id)
    assert backend.has_logits(seq_id)


def whole(backend: LlamaBackend, seq_id: int) -> tuple[list[int], list[Range], bytes]:
    """A sequence in ranges of several sizes."""
    tokens = backend.tokens(seq_id)
    cuts = [c for c in (0, 16, 80, 208, 224) if c < len(tokens)] + [len(tokens)]
    bounds = list(itertools.pairwise(cuts))
    return tokens, backend.export_ranges(seq_id, bounds), backend.export_tail(seq_id)


# ---- packed and unpacked ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_sequence_goes_on_as_if_nothing_had_happened(
    models: Models, kind: str, quant: str, layout: str
) -> None:
    with open_kind(models, kind, quant, layout=layout) as (backend, context):
        neighbours(backend)
        put(backend, 1, prompt(LENGTH))
        packed = backend.kv_pack(prompt(LENGTH), 1)
        told = greedy(backend, 1, 50)
        backend.seq_rm(1)
        put(backend, 1, prompt(LENGTH))
        expected = forced(backend, 1, told)
        backend.seq_rm(1)
        put(backend, 1, prompt(90, 50))  # something else to replace
        assert backend.kv_unpack(packed, 1) == backend.tokens(1) == prompt(LENGTH)
        assert context.last_position(1) == LENGTH - 1
        bring_logits_back(backend, 1)
        backend.step([Row(3, [9]), Row(0, [8])])
        found = forced(backend, 1, told)
        assert same(found, expected, kind, layout, quant)
        if layout == "lanes" and kind != WINDOWED:
            assert [int(row.argmax()) for row in found[:-1]] == told


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_step_between_the_tokens_of_a_restored_lane_without_a_trace(
    models: Models, kind: str
) -> None:
    with open_kind(models, kind) as (backend, _):
        put(backend, 2, prompt(LENGTH))
        packed = backend.kv_pack(prompt(LENGTH), 2)
        expected = forced(backend, 2, prompt(10, 5))
    with open_kind(models, kind) as (backend, _):
        neighbours(backend, (0, 1, 3))
        backend.kv_unpack(packed, 2)
        bring_logits_back(backend, 2)
        found = [logits_of(backend, 2)]
        for token in prompt(10, 5):
            backend.step([Row(0, [7]), Row(1, prompt(20)), Row(3, [6])])
            backend.step([Row(2, [token])])
            found.append(logits_of(backend, 2))
        assert same(np.array(found), expected, kind, "lanes")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ({"num_sequences": 4}, {"num_sequences": 1}),
        ({"num_sequences": 1}, {"num_sequences": 4}),
        ({"num_sequences": 2}, {"num_sequences": 3, "layout": "pool"}),
        ({"num_sequences": 3, "layout": "pool"}, {"num_sequences": 2}),
        ({"layout": "pool"}, {"layout": "pool", "num_sequences": 7}),
    ],
)
def test_a_pack_fits_contexts_of_every_other_shape(
    models: Models, kind: str, source: dict[str, object], target: dict[str, object]
) -> None:
    with open_kind(models, kind, **source) as (backend, _):
        last = backend.num_sequences - 1
        put(backend, last, prompt(LENGTH))
        expected = forced(backend, last, [5, 6, 7])
        backend.seq_rm(last)
        put(backend, last, prompt(LENGTH))
        packed = backend.kv_pack(prompt(LENGTH), last)
    with open_kind(models, kind, **target) as (backend, _):
        last = backend.num_sequences - 1
        backend.kv_unpack(packed, last)
        bring_logits_back(backend, last)
        layout = "pool" if "layout" in source or "layout" in target else "lanes"
        assert same(forced(backend, last, [5, 6, 7]), expected, kind, layout)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pack_carries_the_logits_where_they_cannot_be_had_again(
    models: Models, kind: str
) -> None:
    with open_kind(models, kind) as (backend, _):
        put(backend, 0, prompt(LENGTH))
        before = logits_of(backend)
        backend.kv_unpack(backend.kv_pack(prompt(LENGTH)), 1)
        assert backend.has_logits(1) is (backend.state_kind is not StateKind.DIVISIBLE)
        if backend.has_logits(1):
            assert np.array_equal(logits_of(backend, 1), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pack_without_logits_brings_none(models: Models, kind: str) -> None:
    with open_kind(models, kind) as (backend, _):
        put(backend, 0, prompt(20), wants=False)
        backend.kv_unpack(backend.kv_pack(prompt(20)), 1)
        assert not backend.has_logits(1)


# ---- ranges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
@pytest.mark.parametrize("kind", RANGED)
def test_ranges_restore_another_sequence_of_another_context(
    models: Models, kind: str, quant: str, layout: str
) -> None:
    rest = prompt(50, 9)
    with open_kind(models, kind, quant, layout=layout) as (backend, _):
        put(backend, 1, prompt(256))
        tokens, ranges, tail = whole(backend, 1)
        put(backend, 1, rest)
        expected = forced(backend, 1, [5, 6, 7])
    assert bool(tail) is (kind in TAILED)
    with open_kind(models, kind, quant, layout=layout, num_sequences=3) as (backend, _):
        neighbours(backend, (0, 1))
        backend.import_ranges(2, tokens, ranges, tail)
        assert backend.tokens(2) == prompt(256)
        assert not backend.has_logits(2)
        put(backend, 2, rest)
        assert same(forced(backend, 2, [5, 6, 7]), expected, kind, layout, quant)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", RANGED)
def test_a_prefix_restores_at_the_position_its_tail_was_taken_at(
    models: Models, kind: str, layout: str
) -> None:
    tokens = prompt(LENGTH)
    with open_kind(models, kind, layout=layout) as (backend, _):
        put(backend, 1, tokens[:128])
        tail = backend.export_tail(1)
        put(backend, 1, tokens[128:])
        expected = forced(backend, 1, [5, 6])
        ranges = backend.export_ranges(1, [(0, 64), (64, 128)])
        neighbours(backend)
        backend.import_ranges(2, tokens[:128], ranges, tail)
        put(backend, 2, tokens[128:])
        assert same(forced(backend, 2, [5, 6]), expected, kind, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", RANGED)
def test_import_right_after_a_decode_and_decode_right_after_an_import(
    models: Models, kind: str, layout: str
) -> None:
    with open_kind(models, kind, layout=layout) as (backend, _):
        put(backend, 0, prompt(128))
        tokens, ranges, tail = whole(backend, 0)
        expected = forced(backend, 0, [5, 6, 7])
        for _ in range(3):
            backend.step([Row(0, [9]), Row(2, prompt(30))])
            backend.import_ranges(1, tokens, ranges, tail)
            backend.step([Row(1, [5])])
            backend.import_ranges(3, tokens, ranges, tail)
            backend.step([Row(1, [6])])
            assert same(logits_of(backend, 1), expected[2], kind, layout)
            backend.step([Row(3, [5])])
            assert same(logits_of(backend, 3), expected[1], kind, layout)


@pytest.mark.parametrize("kind", RANGED)
def test_any_range_alone_is_the_same_bytes_as_its_part_of_a_larger_one(
    models: Models, kind: str
) -> None:
    chance = random.Random(1)
    with open_kind(models, kind) as (backend, _):
        put(backend, 0, prompt(200))
        single = [r.payload for r in backend.export_ranges(0, [(i, i + 1) for i in range(200)])]
        for _ in range(20):
            start, end = sorted(chance.sample(range(201), 2))
            backend.import_ranges(1, *prefix_of(backend, start, end, single))
            (again,) = backend.export_ranges(1, [(start, end)])
            (first,) = backend.export_ranges(0, [(start, end)])
            assert bytes(again.payload) == bytes(first.payload)


def prefix_of(
    backend: LlamaBackend, start: int, end: int, single: list[memoryview]
) -> tuple[list[int], list[Range], bytes]:
    """A sequence of 200 tokens, but one of its ranges put together of single rows."""
    bounds = [(a, b) for a, b in ((0, start), (end, 200)) if a < b]
    ranges = backend.export_ranges(0, bounds)
    ranges += [Range(i, i + 1, single[i]) for i in range(start, end)]
    ranges.sort(key=lambda r: r.start)
    return backend.tokens(0), ranges, backend.export_tail(0)


@pytest.mark.parametrize("flash", ["auto", "off"])
@pytest.mark.parametrize("kind", RANGED)
def test_what_was_split_merges_to_the_same_bytes(models: Models, kind: str, flash: str) -> None:
    with open_kind(models, kind, flash_attention=flash) as (backend, context):
        codec = state.probe(context)
        neighbours(backend)
        put(backend, 2, prompt(230))
        before = codec.export_whole(2)
        tokens, ranges, tail = whole(backend, 2)
        assert codec.layout is not None
        assert [r.payload.nbytes for r in ranges] == [
            (r.end - r.start) * codec.layout.row_bytes for r in ranges
        ]
        backend.seq_rm(2)
        backend.import_ranges(2, tokens, ranges, tail)
        again, settled = codec.export_whole(2), codec.export_tail(2)
        assert settled == tail
        if (
            flash == "auto"
        ):  # transposed cells beyond the sequence are not zeroed, and not looked at
            assert again == before


@pytest.mark.parametrize("kind", RANGED)
def test_the_bytes_of_a_range_are_the_same_from_lanes_and_pool(models: Models, kind: str) -> None:
    with open_kind(models, kind) as (backend, _):
        put(backend, 3, prompt(150))
        tokens, ranges, tail = whole(backend, 3)
    with open_kind(models, kind, layout="pool") as (backend, _):
        neighbours(backend)
        backend.import_ranges(1, tokens, ranges, tail)
        _, again, tail_again = whole(backend, 1)
    assert [bytes(r.payload) for r in again] == [bytes(r.payload) for r in ranges]
    assert sorted_cells(tail_again, kind) == sorted_cells(tail, kind)


def sorted_cells(tail: bytes, kind: str) -> bytes | list[int]:
    """A tail; of a sliding window only the positions: its cells may lie in another order."""
    if kind not in (WINDOWED, WHOLE):
        return tail
    (cells,) = struct.unpack_from("<I", tail)
    meta = np.frombuffer(tail, "<i4", 3 * cells, 4).reshape(cells, 3)
    return sorted(int(position) for position in meta[:, 0])


def test_indivisible_state_has_no_ranges_and_is_all_tail(models: Models) -> None:
    with opened(models("mamba")) as (backend, _):
        put(backend, 0, prompt(20))
        tail = backend.export_tail(0)
        backend.import_ranges(1, prompt(20), [], tail)
        assert backend.tokens(1) == prompt(20)
        assert backend.export_tail(1) == tail
        for tokens, ranges, rest in (
            (prompt(20), [], b""),
            (prompt(20), [Range(0, 20, memoryview(b""))], tail),
            (prompt(19), [], tail),
            (prompt(20), [], tail[:-1]),
            ([], [], tail),
        ):
            with pytest.raises(StateRejected):
                backend.import_ranges(1, tokens, ranges, rest)
        backend.seq_rm(1)
        with pytest.raises(StateRejected):
            backend.export_ranges(0, [(0, 20)])
        with pytest.raises(StateRejected):
            backend.import_ranges(1, prompt(20), [Range(0, 20, memoryview(b""))])
        assert backend.tokens(1) == []


# ---- other cells --------------------------------------------------------------------------------


def cells_in_order(context: Context, seq_id: int) -> bool:
    """Whether the cells of a pool lie in the order of their positions, as the blob has them."""
    blob = np.empty(context.state_size(seq_id), np.uint8)
    context.read_state(seq_id, blob)
    (cells,) = struct.unpack_from("<I", blob, 12)
    positions = blob[16 : 16 + 12 * cells].view("<i4").reshape(cells, 3)[:, 0]
    return bool((np.diff(positions) > 0).all())


@pytest.mark.parametrize("flash", ["auto", "off"])
@pytest.mark.parametrize("kind", RANGED)
def test_cells_that_lie_out_of_order_come_out_in_order(
    models: Models, kind: str, flash: str
) -> None:
    with open_kind(models, kind, layout="pool", flash_attention=flash) as (backend, context):
        put(backend, 0, prompt(60, 1))
        put(backend, 1, prompt(64))
        backend.seq_rm(0)
        for token in prompt(64 + 20)[64:]:  # they go where the first sequence was
            put(backend, 1, [token])
        put(backend, 2, prompt(30, 2))
        put(backend, 1, prompt(128)[84:])
        assert not cells_in_order(context, 1)
        tokens, ranges, tail = whole(backend, 1)
        expected = forced(backend, 1, prompt(8, 3))
        for restored in (3, 0):
            backend.import_ranges(restored, tokens, ranges, tail)
            put(backend, restored, [prompt(8, 3)[0]])
            assert same(logits_of(backend, restored), expected[1], kind, "pool")
    with open_kind(models, kind, flash_attention=flash) as (backend, _):
        backend.import_ranges(1, tokens, ranges, tail)
        put(backend, 1, [prompt(8, 3)[0]])
        assert same(logits_of(backend, 1), expected[1], kind, "pool")


@pytest.mark.parametrize("flash", ["auto", "off"])
@pytest.mark.parametrize("kind", RANGED)
def test_each_position_comes_out_as_it_went_in_wherever_its_cell_is(
    models: Models, kind: str, flash: str
) -> None:
    """Attention does not notice two rows that changed places; their bytes tell."""
    with open_kind(models, kind, layout="pool", flash_attention=flash) as (backend, context):
        put(backend, 0, prompt(60, 1))
        put(backend, 1, prompt(40))
        backend.seq_rm(0)
        rows = [r.payload for r in backend.export_ranges(1, [(i, i + 1) for i in range(40)])]
        for position, token in enumerate(prompt(20, 2), 40):
            put(backend, 1, [token])
            (row,) = backend.export_ranges(1, [(position, position + 1)])
            rows.append(row.payload)
        assert not cells_in_order(context, 1)
        again = backend.export_ranges(1, [(i, i + 1) for i in range(60)])
        assert [bytes(r.payload) for r in again] == [bytes(row) for row in rows]
        assert len({bytes(row) for row in rows}) == 60


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", RANGED)
@pytest.mark.parametrize(
    "options",
    [
        {"flash_attention": "off"},
        {"type_k": "q8_0", "type_v": "q8_0"},
        {"type_k": "bf16", "type_v": "q4_0"},
        {"type_k": "f32", "type_v": "f32"},
        {"full_window": True},
    ],
    ids=["transposed V", "q8_0", "bf16 and q4_0", "f32", "full window"],
)
def test_every_kind_of_cell_restores(
    models: Models, kind: str, layout: str, options: dict[str, object]
) -> None:
    with open_kind(models, kind, layout=layout, **options) as (backend, _):
        neighbours(backend)
        put(backend, 1, prompt(192))
        tokens, ranges, tail = whole(backend, 1)
        put(backend, 1, prompt(40, 1))
        expected = forced(backend, 1, [5, 6])
        backend.import_ranges(2, tokens, ranges, tail)
        put(backend, 2, prompt(40, 1))
        noise = "Q8_0" if "type_v" in options else "F16"
        assert same(forced(backend, 2, [5, 6]), expected, kind, layout, noise)


def test_a_restore_into_a_full_pool_is_refused_and_hurts_nobody(models: Models) -> None:
    with opened(models(), layout="pool", context_length=256) as (backend, context):
        put(backend, 0, prompt(100))
        tokens, ranges, tail = whole(backend, 0)
        packed = backend.kv_pack(tokens)
        put(backend, 1, prompt(100, 1))
        before = logits_of(backend, 1)
        put(backend, 2, [5, 6])
        for attempt in (
            lambda: backend.import_ranges(2, tokens, ranges, tail),
            lambda: backend.kv_unpack(packed, 2),
        ):
            with pytest.raises(StateRejected):
                attempt()
            assert backend.tokens(2) == []
            assert context.last_position(2) == -1
        assert np.array_equal(logits_of(backend, 1), before)
        assert backend.tokens(0) == tokens
        backend.seq_rm(1)
        backend.import_ranges(2, tokens, ranges, tail)


# ---- what is refused ----------------------------------------------------------------------------


def untouched(backend: LlamaBackend, attempt: Callable[[], object]) -> None:
    """`attempt` is refused, and sequence 0 goes on as before."""
    tokens, before = backend.tokens(0), logits_of(backend)
    with pytest.raises(StateRejected):
        attempt()
    assert backend.tokens(0) == tokens
    assert np.array_equal(logits_of(backend), before)


@pytest.mark.parametrize("kind", KINDS)
def test_no_damaged_byte_gets_through(models: Models, kind: str) -> None:
    chance = random.Random(2)
    with open_kind(models, kind) as (backend, _):
        put(backend, 0, prompt(20))
        packed = backend.kv_pack(prompt(20))
        put(backend, 0, prompt(5, 1))
        head = list(range(72 + 80 + 8))
        for at in head + chance.sample(range(len(packed)), scaled(60, 1000)):
            damaged = bytearray(packed)
            damaged[at] ^= 1 << chance.randrange(8)
            untouched(backend, lambda damaged=damaged: backend.kv_unpack(bytes(damaged)))
        backend.kv_unpack(packed)


@pytest.mark.parametrize("kind", KINDS)
def test_no_cut_off_pack_gets_through(models: Models, kind: str) -> None:
    with open_kind(models, kind) as (backend, _):
        put(backend, 0, prompt(20))
        packed = backend.kv_pack(prompt(20))
        for length in [*range(0, 200, 7), len(packed) // 2, len(packed) - 4, len(packed) - 1]:
            untouched(backend, lambda length=length: backend.kv_unpack(packed[:length]))
        untouched(backend, lambda: backend.kv_unpack(packed + b"\0"))


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (("llama", "F16", None, 1), {}),
        (("llama", "Q8_0"), {}),
        (("qwen2",), {}),
        (("mamba",), {}),
        (("llama",), {"type_k": "q8_0"}),
        (("llama",), {"type_v": "q8_0"}),
        (("llama",), {"flash_attention": "off"}),
        (("llama",), {"rope_freq_base": 5000.0}),
        (("llama",), {"rope_freq_scale": 0.5}),
        (("llama",), {"full_window": True}),
    ],
    ids=[
        "other weights",
        "other quantisation",
        "other architecture",
        "other kind of state",
        "K type",
        "V type",
        "attention",
        "rope base",
        "rope scale",
        "window",
    ],
)
def test_a_foreign_pack_is_refused(
    models: Models, path: tuple[object, ...], options: dict[str, object]
) -> None:
    with opened(models(*path), **options) as (other, _):
        put(other, 0, prompt(20))
        foreign = other.kv_pack(prompt(20))
    with opened(models()) as (backend, _):
        put(backend, 0, prompt(30, 1))
        untouched(backend, lambda: backend.kv_unpack(foreign))


def test_a_pack_of_another_rotation_is_refused(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models with two sets of rotation factors choose one by the length of the context."""
    original = Header.integer
    monkeypatch.setattr(
        Header,
        "integer",
        lambda header, key: 600 if "original_context" in key else original(header, key),
    )
    names = []
    for length in (512, 300, 1024):
        with opened(models(), context_length=length) as (backend, _):
            names.append(backend.namespace)
    assert names[0] == names[1] != names[2]


def test_a_pack_is_of_the_file_that_was_loaded_not_of_the_one_that_is_there_now(
    models: Models, tmp_path: Path
) -> None:
    path = Path(shutil.copyfile(models(), tmp_path / "model.gguf"))
    with opened(path) as (backend, _):
        Path(shutil.copyfile(models(seed=1), tmp_path / "other.gguf")).replace(path)
        put(backend, 0, prompt(20))
        packed = backend.kv_pack(prompt(20))
    with opened(path) as (backend, _):
        put(backend, 0, [5])
        untouched(backend, lambda: backend.kv_unpack(packed))
    with opened(models()) as (backend, _):
        assert backend.kv_unpack(packed) == prompt(20)


@pytest.mark.parametrize("event", ["replaced", "removed"])
def test_a_file_that_is_not_the_same_after_loading_is_refused(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    path = Path(shutil.copyfile(models(), tmp_path / "model.gguf"))
    load = ll.llama_model_load_from_file

    def meddle(name: bytes, params: object) -> int:
        pointer = int(load(name, params))
        path.unlink()
        if event == "replaced":
            shutil.copyfile(models(seed=1), path)
        return pointer

    monkeypatch.setattr(ll, "llama_model_load_from_file", meddle)
    with pytest.raises(LoadFailed, match="while it was loaded"):
        Model(path)


def test_a_pack_longer_than_the_context_is_refused(models: Models) -> None:
    with opened(models()) as (backend, _):
        put(backend, 0, prompt(300))
        packed = backend.kv_pack(prompt(300))
    with opened(models(), context_length=256) as (backend, _):
        put(backend, 0, [5, 6])
        with pytest.raises(SamovarError):
            backend.kv_unpack(packed)
        assert backend.tokens(0) == [5, 6]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", TAILED)
@pytest.mark.parametrize(("taken", "held"), [(90, 100), (100, 90), (99, 100), (200, 40), (40, 200)])
def test_a_tail_of_another_position_is_refused(
    models: Models, kind: str, layout: str, taken: int, held: int
) -> None:
    with open_kind(models, kind, layout=layout) as (backend, context):
        put(backend, 0, prompt(taken))
        tail = backend.export_tail(0)
        backend.seq_rm(0)
        put(backend, 0, prompt(held))
        ranges = backend.export_ranges(0, [(0, held)])
        with pytest.raises(StateRejected):
            backend.import_ranges(1, prompt(held), ranges, tail)
        assert backend.tokens(1) == []
        assert context.last_position(1) == -1
        backend.import_ranges(1, prompt(held), ranges, backend.export_tail(0))


@pytest.mark.parametrize("kind", RANGED)
def test_a_missing_an_unwanted_and_a_cut_off_tail_are_refused(models: Models, kind: str) -> None:
    with open_kind(models, kind) as (backend, _):
        put(backend, 0, prompt(100))
        tokens, ranges, tail = whole(backend, 0)
        for wrong in [tail[:-1], tail + b"\0", b"" if tail else b"x"]:
            if wrong == tail:
                continue
            with pytest.raises(StateRejected):
                backend.import_ranges(1, tokens, ranges, wrong)
            assert backend.tokens(1) == []


# ---- cells that say more of themselves -----------------------------------------------------------


def with_sections(order: Order) -> Plan:
    """A model of text and images: M-RoPE, whose cells keep two more positions and the token."""
    plan, half = qwen2_plan(order), order.shape.head_width // 2
    sections = listing([half // 2, half // 4, half - half // 2 - half // 4, 0])
    metadata = dict(plan.metadata) | {"rope.dimension_sections": sections}
    return Plan("qwen2vl", metadata, plan.tensors)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("flash", ["auto", "off"])
def test_the_cells_of_a_text_with_m_rope_are_told_from_its_tokens(
    models: Models, monkeypatch: pytest.MonkeyPatch, layout: str, flash: str
) -> None:
    monkeypatch.setitem(MADE, "qwen2vl", with_sections)
    with open_kind(models, "qwen2vl", layout=layout, flash_attention=flash) as (backend, context):
        assert backend.state_kind is StateKind.DIVISIBLE
        codec = state.probe(context)
        assert codec.layout is not None
        assert codec.layout.ext_bytes
        neighbours(backend)
        put(backend, 1, prompt(LENGTH))
        before = codec.export_whole(1)
        tokens, ranges, tail = whole(backend, 1)
        expected = forced(backend, 1, prompt(8, 3))
        backend.seq_rm(1)
        backend.import_ranges(1, tokens, ranges, tail)
        again = codec.export_whole(1)
        assert again == before or flash == "off"
        assert again[: 24 * LENGTH] == before[: 24 * LENGTH]  # the cells, whatever the rows
        for seq_id in (1, 2):
            backend.import_ranges(seq_id, tokens, ranges, tail)
            prime(backend, seq_id)
            assert same(forced(backend, seq_id, prompt(8, 3)), expected, "qwen2vl", layout)


@pytest.mark.parametrize("field", ["x", "y", "token"])
def test_cells_that_are_not_told_from_the_tokens_are_kept_whole(
    models: Models, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """As those of an image would be, or those of another build."""
    monkeypatch.setitem(MADE, "qwen2vl", with_sections)
    honest = Context.read_state

    def sabotaged(context: Context, seq_id: int, buffer: np.ndarray, flags: int = 0) -> int:
        written = honest(context, seq_id, buffer, flags)
        buffer[16 + 8 + 4 * ["x", "y", "token"].index(field)] += 1
        return written

    monkeypatch.setattr(Context, "read_state", sabotaged)
    assert kind_found(models, "qwen2vl") is StateKind.INDIVISIBLE


# ---- cutting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["llama", "qwen2", WINDOWED, WHOLE])
def test_the_primer_brings_the_same_logits_back(models: Models, kind: str, layout: str) -> None:
    with open_kind(models, kind, layout=layout) as (backend, context):
        neighbours(backend)
        put(backend, 1, prompt(LENGTH))
        expected = forced(backend, 1, [5, 6])
        backend.seq_rm(1)
        put(backend, 1, prompt(LENGTH))
        assert backend.seq_rm_last(LENGTH, 1)
        assert context.last_position(1) == LENGTH - 2
        assert not backend.has_logits(1)
        put(backend, 1, prompt(LENGTH)[-1:])
        assert same(forced(backend, 1, [5, 6]), expected, kind, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["llama", "qwen2", WINDOWED, WHOLE])
def test_a_cut_sequence_goes_on_in_another_direction(
    models: Models, kind: str, layout: str
) -> None:
    with open_kind(models, kind, layout=layout) as (backend, context):
        put(backend, 1, prompt(64))
        put(backend, 1, prompt(30, 1))
        assert backend.seq_rm(1, 64)
        assert context.last_position(1) == 63
        put(backend, 1, prompt(50, 2))
        found = logits_of(backend, 1)
        put(backend, 2, [*prompt(64), *prompt(50, 2)])
        assert same(found, logits_of(backend, 2), kind, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("kind", "start"), [("mamba", 199), ("mamba", 1), ("lfm2", 199), ("lfm2", 64), (WINDOWED, 80)]
)
def test_a_refused_cut_changes_nothing(models: Models, kind: str, start: int, layout: str) -> None:
    tokens = prompt(600)
    with open_kind(models, kind, layout=layout) as (backend, context):
        neighbours(backend)
        put(backend, 1, tokens)  # a window's cells were used again by then
        before = logits_of(backend, 1)
        ends = [(context.first_position(s), context.last_position(s)) for s in range(4)]
        assert backend.seq_rm(1, start) is False
        assert backend.seq_rm_last(start + 1, 1) is False
        assert backend.tokens(1) == tokens
        assert ends == [(context.first_position(s), context.last_position(s)) for s in range(4)]
        assert np.array_equal(logits_of(backend, 1), before)
        found = forced(backend, 1, prompt(10, 3))
        with open_kind(models, kind, layout=layout) as (twin, _):
            neighbours(twin)
            put(twin, 1, tokens)
            assert np.array_equal(found, forced(twin, 1, prompt(10, 3)))
        assert backend.seq_rm(1)
        assert context.last_position(1) == -1


def test_a_window_slides_or_begins_anew(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(models("gemma2"))
    assert model.window == 64
    assert [model.horizon(p) for p in (0, 63, 64, 100, 128)] == [0, 0, 1, 37, 65]
    monkeypatch.setattr(Header, "architecture", property(lambda _: "llama4"))
    assert [model.horizon(p) for p in (0, 63, 64, 100, 128)] == [0, 0, 64, 64, 128]
    model.close()


def test_a_window_that_was_kept_whole_can_be_cut_anywhere(models: Models) -> None:
    with opened(models("gemma2"), full_window=True) as (backend, _):
        put(backend, 0, prompt(400))
        assert backend.seq_rm(0, 64)
        put(backend, 0, prompt(400)[64:])
        put(backend, 1, prompt(400))
        assert np.array_equal(logits_of(backend, 0), logits_of(backend, 1))


def test_a_restored_window_is_only_as_long_as_it_has_to_be(models: Models) -> None:
    with opened(models("gemma2")) as (backend, _):
        put(backend, 0, prompt(200))
        tokens, ranges, tail = whole(backend, 0)
        backend.import_ranges(1, tokens, ranges, tail)
        assert backend.seq_rm(0, 190)
        assert backend.seq_rm(1, 190) is False
        assert backend.seq_rm_last(200, 1)
        assert backend.seq_rm_last(199, 1) is False
        put(backend, 1, tokens[-1:])
        backend.seq_rm(0)
        put(backend, 0, tokens[:-1])
        put(backend, 0, tokens[-1:])
        assert np.array_equal(logits_of(backend, 1), logits_of(backend, 0))


# ---- copies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_tokens_cells_and_logits_at_once(models: Models, kind: str, layout: str) -> None:
    with open_kind(models, kind, layout=layout) as (backend, context):
        neighbours(backend, (0,))
        put(backend, 1, prompt(LENGTH))
        put(backend, 3, prompt(30, 3))  # replaced
        before = logits_of(backend, 1)
        backend.seq_cp(1, 3)
        assert backend.tokens(3) == backend.tokens(1) == prompt(LENGTH)
        assert context.last_position(3) == LENGTH - 1
        assert np.array_equal(logits_of(backend, 3), before)
        assert np.array_equal(logits_of(backend, 1), before)
        if kind != "mamba":
            pairs = zip(whole(backend, 3)[1], whole(backend, 1)[1], strict=True)
            assert all(bytes(a.payload) == bytes(b.payload) for a, b in pairs)
            assert len(backend.export_tail(3)) == len(backend.export_tail(1))
        copied, packed = (backend.kv_pack(prompt(LENGTH), s) for s in (3, 1))
        assert copied == packed if kind == "mamba" else len(copied) == len(packed)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_and_its_source_go_separate_ways(models: Models, kind: str, layout: str) -> None:
    ways = {1: prompt(20, 4), 2: prompt(20, 5), 3: prompt(20, 6)}
    with open_kind(models, kind, layout=layout) as (backend, _):
        put(backend, 1, prompt(LENGTH))
        backend.seq_cp(1, 2)
        backend.seq_cp(2, 3)
        found = {s: forced(backend, s, way) for s, way in ways.items()}
        assert all(backend.tokens(s) == prompt(LENGTH) + way for s, way in ways.items())
    for s, way in ways.items():
        with open_kind(models, kind) as (twin, _):
            put(twin, 1, prompt(LENGTH))
            assert same(found[s], forced(twin, 1, way), kind, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_outlives_its_source(models: Models, kind: str, layout: str) -> None:
    with open_kind(models, kind, layout=layout) as (backend, _):
        put(backend, 1, prompt(LENGTH))
        backend.seq_cp(1, 2)
        packed = backend.kv_pack(prompt(LENGTH), 2)
        backend.seq_rm(1)
        put(backend, 1, prompt(300, 8))
        found = forced(backend, 2, prompt(10, 4))
        backend.kv_unpack(packed, 3)
        bring_logits_back(backend, 3)
        assert same(forced(backend, 3, prompt(10, 4)), found, kind, layout)
    with open_kind(models, kind) as (twin, _):
        put(twin, 2, prompt(LENGTH))
        assert same(found, forced(twin, 2, prompt(10, 4)), kind, layout)


def test_lanes_are_not_copied_by_a_codec_that_was_not_proved(models: Models) -> None:
    for layout in LAYOUTS:
        options = ContextOptions(**OPTIONS, layout=layout)
        with LlamaBackend.open(models(), context=options, proves_state=False) as backend:
            put(backend, 0, prompt(20))
            put(backend, 1, [5, 6])
            if layout == "lanes":
                with pytest.raises(OperationUnsupported):
                    backend.seq_cp(0, 1)
                assert backend.tokens(1) == [5, 6]
            else:
                backend.seq_cp(0, 1)
                assert backend.tokens(1) == prompt(20)


def test_copies_in_the_pool_take_no_cells(models: Models) -> None:
    with opened(models(), layout="pool", context_length=256) as (backend, _):
        put(backend, 0, prompt(200))
        for target in (1, 2, 3):
            backend.seq_cp(0, target)
        for seq_id in range(4):
            assert isinstance(backend.step([Row(seq_id, prompt(10, seq_id))]), Stepped)
        assert isinstance(backend.step([Row(0, prompt(40))]), NoRoom)


# ---- finding out --------------------------------------------------------------------------------


def kind_found(models: Models, kind: str) -> StateKind:
    with open_kind(models, kind) as (backend, context):
        put(backend, 0, prompt(20))  # whatever the kind, it computes
        assert context.last_position(0) == 19
        if backend.state_kind is StateKind.NONE:
            with pytest.raises(OperationUnsupported):
                backend.kv_pack(prompt(20))
        else:
            backend.kv_unpack(backend.kv_pack(prompt(20)), 1)
        return backend.state_kind


@pytest.mark.parametrize("kind", RANGED)
@pytest.mark.parametrize("row", [0, 1, 3])
def test_the_proof_catches_a_codec_that_swaps_a_row(
    models: Models, monkeypatch: pytest.MonkeyPatch, kind: str, row: int
) -> None:
    """What comes out the second time is what went in: only the logits tell."""
    honest = state.Codec.export_ranges

    def sabotaged(codec: state.Codec, seq_id: int, bounds: list[tuple[int, int]]) -> list[Range]:
        ranges = honest(codec, seq_id, bounds)
        found = next(r for r in ranges if r.start <= row < r.end)
        rows = np.frombuffer(found.payload, np.uint8).reshape(-1)
        step = len(rows) // (found.end - found.start) // 8
        first = (row - found.start) * step
        rows[first : first + step] = 60
        return ranges

    monkeypatch.setattr(state.Codec, "export_ranges", sabotaged)
    assert kind_found(models, kind) is StateKind.INDIVISIBLE


@pytest.mark.parametrize("kind", TAILED)
def test_the_proof_catches_a_codec_that_damages_the_tail(
    models: Models, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    honest = state.Codec.export_tail

    def sabotaged(codec: state.Codec, seq_id: int) -> bytes:
        tail = honest(codec, seq_id)
        return tail[:-400] + bytes(400)

    monkeypatch.setattr(state.Codec, "export_tail", sabotaged)
    assert kind_found(models, kind) is StateKind.INDIVISIBLE


@pytest.mark.parametrize("kind", KINDS)
def test_the_proof_catches_cells_that_arrive_changed(
    models: Models, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    honest = Context.write_state

    def sabotaged(context: Context, seq_id: int, blob: np.ndarray, flags: int = 0) -> int:
        blob[-200:] = 60
        return honest(context, seq_id, blob, flags)

    monkeypatch.setattr(Context, "write_state", sabotaged)
    assert kind_found(models, kind) is StateKind.NONE


@pytest.mark.parametrize("kind", KINDS)
def test_the_proof_catches_a_library_that_takes_no_state(
    models: Models, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(Context, "write_state", lambda *_: 0)
    assert kind_found(models, kind) is StateKind.NONE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_too_short_for_the_proof_of_ranges_is_proved_whole(
    models: Models, kind: str, layout: str
) -> None:
    size = {"batch_size": 4, "micro_batch_size": 4}
    with open_kind(models, kind, layout=layout, **size) as (backend, _):
        assert backend.state_kind is StateKind.INDIVISIBLE
        put(backend, 0, prompt(20))
        expected = forced(backend, 0, [5])
        backend.seq_rm(0)
        put(backend, 0, prompt(20))
        backend.kv_unpack(backend.kv_pack(prompt(20)), 2)
        assert same(forced(backend, 2, [5]), expected, kind, layout)


def test_a_batch_too_short_for_the_proof_of_ranges_may_fail_that_of_the_whole(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "write_state", lambda *_: 0)
    with opened(models(), batch_size=4, micro_batch_size=4) as (backend, _):
        assert backend.state_kind is StateKind.NONE


# ---- random operations --------------------------------------------------------------------------


class LlamaWalk(Walk):
    """The walk on llama.cpp, which is asked for its positions as well."""

    tolerance = NOISE["F16"]

    def __init__(
        self, opened_backend: tuple[LlamaBackend, Context], oracle: LlamaBackend, adapter: str
    ) -> None:
        super().__init__(opened_backend[0], oracle, [adapter])
        self.context = opened_backend[1]

    def may_cut(self) -> bool | None:
        return None if self.context.model.window else super().may_cut()

    @invariant()
    def cells_end_where_tokens_end(self) -> None:
        ends = [self.context.last_position(s) + 1 for s in range(4)]
        assert ends == [len(cells) for cells in self.cells]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["llama", WINDOWED, "lfm2", "mamba"])
def test_random_operations_leave_what_the_tokens_say(
    models: Models, kind: str, layout: str
) -> None:
    path = models(kind)
    adapter = str(models.adapter(path))
    size = {"context_length": 256, "batch_size": 48, "micro_batch_size": 24}
    with opened(path, **size) as (oracle, _), ExitStack() as stack:

        def start() -> Walk:
            return LlamaWalk(
                stack.enter_context(opened(path, layout=layout, **size)), oracle, adapter
            )

        run_state_machine_as_test(
            start,
            settings=settings(
                max_examples=scaled(4, 50), stateful_step_count=40, database=None, deadline=None
            ),
        )
