"""States that were made up: refused, or harmless to everybody else, and never the process's end.

llama.cpp believes what a blob says of its cells: a recurrent state of two cells ends the process,
and a cell of a negative position is one that no removal ever finds again. Each forgery is tried in
a process of its own, which must survive it.
"""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from modelmaker.gguf_file import count
from modelmaker.kinds.lfm2 import lfm2_plan
from modelmaker.model import KINDS
from modelmaker.plan import Order, Plan
from samovar.errors import NativeError, StateRejected
from samovar.native import packing
from samovar.native.interface import Range, Row, RowFailed, StateKind, Stepped
from samovar.native.llama import LlamaBackend
from samovar.types import SamplingParams
from tests.conftest import ROOT, Models, scaled
from tests.native.test_backend import NOISE, forced, logits_of, opened, prompt, put

pytestmark = pytest.mark.native

LAYOUTS = ("lanes", "pool")
HELD = 100
WINDOW_CELL = struct.Struct("<iIi")  # position, number of sequences, sequence

Forge = Callable[[bytearray], None]


# ---- what is forged ------------------------------------------------------------------------------


def put_integer(at: int, value: int) -> Forge:
    """Another integer at this place."""

    def forge(state: bytearray) -> None:
        struct.pack_into("<I", state, at, value & 0xFFFFFFFF)

    return forge


RECURRENT: dict[str, Forge] = {
    **{f"{n} cells": put_integer(0, n) for n in (0, 2, 3, 4, 5, 2**16, 2**31, 2**32 - 1)},
    **{
        f"position {p}": put_integer(4, p)
        for p in (0, -1, -5, HELD - 2, HELD, HELD + 50, 2**31 - 1, -(2**31))
    },
    **{f"{n} sequences": put_integer(8, n) for n in (1, 2, 2**31, 2**32 - 1)},
}
"""Of a recurrent state: u32 cells, i32 position, u32 sequences, and then rows."""


def window_position(cell: int, position: int) -> Forge:
    """Another position of one cell of a sliding window."""
    return put_integer(4 + cell * WINDOW_CELL.size, position)


def _fewer_cells(state: bytearray) -> None:
    (cells,) = struct.unpack_from("<I", state)
    struct.pack_into("<I", state, 0, cells - 1)


WINDOW: dict[str, Forge] = {
    **{f"{n} cells": put_integer(0, n) for n in (0, 1, 2, 65, 2**16, 2**32 - 1)},
    "a cell less": _fewer_cells,
    **{f"position {p} first": window_position(0, p) for p in (-1, -5, 0, HELD - 1, HELD, -(2**31))},
    **{
        f"position {p} last": window_position(63, p) for p in (-1, -5, 0, HELD - 2, HELD, 2**31 - 1)
    },
    **{f"{n} sequences": put_integer(8, n) for n in (0, 2, 2**32 - 1)},
    "transposed": put_integer(4 + 64 * WINDOW_CELL.size, 1),
    "layers": put_integer(8 + 64 * WINDOW_CELL.size, 3),
    "type": put_integer(12 + 64 * WINDOW_CELL.size, 0),
    "width": put_integer(16 + 64 * WINDOW_CELL.size, 8),
}
"""Of the cells of a sliding window of 64: u32 cells, 12 bytes per cell, and then rows by layer."""

WHOLE: dict[str, Forge] = {
    **{f"{n} streams": put_integer(0, n) for n in (0, 2, 1000, 2**32 - 1)},
    **{f"{n} cells": put_integer(4, n) for n in (0, 1, HELD - 1, HELD + 1, 2**32 - 1)},
    **{f"position {p}": put_integer(8, p) for p in (-1, -5, 1, HELD, 2**31 - 1, -(2**31))},
    **{f"{n} sequences": put_integer(12, n) for n in (0, 2, 2**32 - 1)},
}
"""Of attention alone: u32 streams, u32 cells, and what they are."""

FIRST_ROW = 32
"""Of a recurrent state: behind cells, the one cell, and the numbers of the first layer."""

FORGED = {"llama": WHOLE, "lfm2": RECURRENT, "mamba": RECURRENT, "gemma2": WINDOW}

OPTIONS_OF = {"llama": {"batch_size": 4, "micro_batch_size": 4}}
"""With so short a batch the state of every model is kept whole."""


# ---- in the child --------------------------------------------------------------------------------


def taken_from(backend: LlamaBackend) -> bytes:
    """The tail of sequence 0, or its whole state where there are no tails."""
    if backend.state_kind is StateKind.DIVISIBLE_WITH_TAIL:
        return backend.export_tail(0)
    packed = packing.unpack(
        backend.kv_pack(backend.tokens(0)), backend.state_kind, backend.namespace
    )
    return bytes(packed.rows)


def give(backend: LlamaBackend, seq_id: int, state: bytes) -> None:
    """Hand a state to a sequence, as that of sequence 0, with every checksum right."""
    tokens = backend.tokens(0)
    if backend.state_kind is StateKind.DIVISIBLE_WITH_TAIL:
        ranges = backend.export_ranges(0, [(0, 60), (60, len(tokens))])
        backend.import_ranges(seq_id, tokens, ranges, state)
        return
    kind, namespace = backend.state_kind, backend.namespace
    packed = packing.Packed(kind, namespace, tokens, memoryview(state), b"")
    backend.kv_unpack(packing.pack(packed), seq_id)


def same(found: np.ndarray, expected: np.ndarray, layout: str) -> bool:
    noise = 0 if layout == "lanes" else NOISE["F16"]
    return bool(np.abs(found - expected).max() <= noise)


def ends(backend: LlamaBackend) -> list[int]:
    context = backend._context  # noqa: SLF001 - what the cells say, not the record
    return [context.last_position(s) + 1 for s in range(4)]


def try_every_forgery(path: str, kind: str, layout: str) -> None:
    """Each is refused, leaves the sequence empty, and leaves no trace in what follows."""
    with opened(Path(path), layout=layout, **OPTIONS_OF.get(kind, {})) as (backend, _):
        put(backend, 0, prompt(HELD))
        put(backend, 3, prompt(30, 3))
        honest = taken_from(backend)
        put(backend, 1, prompt(20, 1))
        expected = forced(backend, 1, [5, 6])
        for name, forge in FORGED[kind].items():
            state = bytearray(honest)
            forge(state)
            put(backend, 2, [7, 8])
            _say(name)
            with pytest.raises(StateRejected):
                give(backend, 2, bytes(state))
            assert [backend.tokens(2), ends(backend)] == [[], [HELD, 22, 0, 30]], name
            put(backend, 2, prompt(20, 1))
            assert same(forced(backend, 2, [5, 6]), expected, layout), name
            backend.seq_rm(2)
        give(backend, 2, honest)
        assert ends(backend) == [HELD, 22, HELD, 30]


def flip_bits(path: str, layout: str, count: str, seed: str) -> None:
    """Whatever became of a damaged state, the others and the next one in its place are as ever."""
    chance = random.Random(int(seed))
    with opened(Path(path), layout=layout) as (backend, _):
        put(backend, 0, prompt(HELD))
        honest = taken_from(backend)
        put(backend, 1, prompt(20, 1))
        neighbour, expected = prompt(20, 1), forced(backend, 1, [5, 6])
        backend.seq_rm(1)
        for _ in range(int(count)):
            state = bytearray(honest)
            for at in _places(chance, len(state)):
                state[at] ^= 1 << chance.randrange(8)
            _say(f"{seed}: {[i for i in range(len(state)) if state[i] != honest[i]]}")
            held = _outcome(backend, bytes(state))
            assert [len(backend.tokens(s)) for s in range(4)] == [HELD, 0, held, 0]
            assert ends(backend) == [HELD, 0, held, 0]
            assert isinstance(backend.step([Row(2, [9])]), Stepped)
            backend.seq_rm(2)
            put(backend, 2, neighbour)
            assert same(forced(backend, 2, [5, 6]), expected, layout)
            backend.seq_rm(2)


def _places(chance: random.Random, length: int) -> Iterator[int]:
    """Often in the first bytes, where the numbers are."""
    for _ in range(chance.choice([1, 1, 2, 5])):
        yield chance.randrange(min(length, chance.choice([12, 64, 900, length])))


def _outcome(backend: LlamaBackend, state: bytes) -> int:
    try:
        give(backend, 2, state)
    except StateRejected:
        return 0
    return HELD


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# ---- tests ---------------------------------------------------------------------------------------


def survives(cache: Path, call: str, *arguments: object) -> None:
    """Run one of the functions above in a process that may die."""
    code = f"import sys; from tests.native import test_forged_state as t; t.{call}(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    tried = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"{done.returncode} at {tried}: {done.stderr[-800:]}"
    assert tried


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_state_is_refused_without_a_trace(
    models: Models, cache: Path, kind: str, layout: str
) -> None:
    survives(cache, "try_every_forgery", models(kind), kind, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", FORGED)
def test_flipped_bits_hurt_nobody_else(models: Models, cache: Path, kind: str, layout: str) -> None:
    for seed in range(scaled(1, 5)):
        survives(cache, "flip_bits", models(kind), layout, scaled(150, 1000), seed)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["lfm2", "mamba"])
def test_a_recurrent_state_of_no_numbers_does_not_outlive_its_sequence(
    models: Models, kind: str, layout: str, value: float
) -> None:
    """Wherever the next sequences find their cells."""
    with opened(models(kind), layout=layout) as (backend, _):
        put(backend, 0, prompt(HELD))
        put(backend, 1, prompt(20, 1))
        expected = forced(backend, 1, [5, 6])
        backend.seq_rm(1)
        state = bytearray(taken_from(backend))
        struct.pack_into("<f", state, FIRST_ROW, value)
        put(backend, 3, [7, 8])
        for spoilt in (2, 1):
            give(backend, spoilt, bytes(state))
            outcome = backend.step([Row(spoilt, [5], backend.new_sampler(SamplingParams()))])
            assert isinstance(outcome, Stepped)
            (failed,) = outcome.results
            assert isinstance(failed, RowFailed) or value == 3e38
        backend.seq_rm(3)
        for seq_id in (2, 1):
            backend.seq_rm(seq_id)
        for seq_id in (3, 2, 1):
            put(backend, seq_id, prompt(20, 1))
            assert same(forced(backend, seq_id, [5, 6]), expected, layout)
        assert ends(backend) == [HELD, 22, 22, 22]


def test_cells_of_no_numbers_give_an_error_and_leave_with_their_sequence(models: Models) -> None:
    with opened(models()) as (backend, _):
        put(backend, 0, prompt(20))
        expected = forced(backend, 0, [5, 6])
        backend.seq_rm(0)
        put(backend, 0, prompt(20))
        (rows,) = backend.export_ranges(0, [(0, 20)])
        no_numbers = np.full(rows.payload.nbytes // 2, np.float16("nan")).tobytes()
        for seq_id in (0, 2):
            spoilt = [Range(0, 20, memoryview(no_numbers))]
            backend.import_ranges(seq_id, prompt(20), spoilt)
            with pytest.raises(NativeError, match="no numbers"):
                backend.argmaxes(seq_id, [5, 6])
            backend.seq_rm(seq_id)
            put(backend, seq_id, prompt(20))
            assert np.array_equal(forced(backend, seq_id, [5, 6]), expected)


def _windowed(order: Order) -> Plan:
    """Convolutions and a sliding window, and no layer that sees everything."""
    plan = lfm2_plan(order)
    metadata = dict(plan.metadata) | {"attention.sliding_window": count(64)}
    return Plan(plan.architecture, metadata, plan.tensors)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("flash", ["auto", "off"])
def test_a_window_beside_a_recurrent_state_is_read_and_kept_whole(
    models: Models, monkeypatch: pytest.MonkeyPatch, layout: str, flash: str
) -> None:
    monkeypatch.setitem(KINDS, "windowed lfm2", _windowed)
    with opened(models("windowed lfm2"), layout=layout, flash_attention=flash) as (backend, _):
        assert backend.state_kind is StateKind.INDIVISIBLE
        put(backend, 1, prompt(HELD))
        packed = backend.kv_pack(prompt(HELD), 1)
        expected = forced(backend, 1, [5, 6])
        put(backend, 3, [7, 8])
        backend.kv_unpack(packed, 3)
        assert same(forced(backend, 3, [5, 6]), expected, layout)
        put(backend, 0, prompt(HELD))
        state = bytearray(taken_from(backend))
        for at in (8, 12, len(state) - 2116, len(state) - 2112):  # positions and numbers of cells
            damaged = bytes(state[:at]) + b"\x05" + bytes(state[at + 1 :])
            with pytest.raises(StateRejected):
                give(backend, 2, damaged)
            assert ends(backend)[2] == 0


def test_a_window_that_is_too_short_is_refused(models: Models) -> None:
    """As many cells as it says, but not all that the next token looks at."""
    with opened(models("gemma2")) as (backend, _):
        put(backend, 0, prompt(HELD))
        tokens = backend.tokens(0)
        ranges = backend.export_ranges(0, [(0, HELD)])
        put(backend, 1, prompt(HELD, 1))
        before = logits_of(backend, 1)
        for cells in (1, 30, 62):
            with pytest.raises(StateRejected):
                backend.import_ranges(2, tokens, ranges, shorter(backend.export_tail(0), cells))
            assert ends(backend) == [HELD, HELD, 0, 0]
        backend.import_ranges(2, tokens, ranges, shorter(backend.export_tail(0), 63))
        assert np.array_equal(logits_of(backend, 1), before)


def shorter(tail: bytes, kept: int) -> bytes:
    """A window of its last `kept` cells, as sound as the whole one in every other way."""
    (cells,) = struct.unpack_from("<I", tail)
    drop, end = cells - kept, 4 + cells * WINDOW_CELL.size
    parts = [struct.pack("<I", kept), tail[4 + drop * WINDOW_CELL.size : end], tail[end : end + 8]]
    (layers,) = struct.unpack_from("<I", tail, end + 4)
    offset = end + 8
    for _ in range(2 * layers):
        (row,) = struct.unpack_from("<Q", tail, offset + 4)
        first = offset + 12
        parts += [tail[offset:first], tail[first + drop * row : first + cells * row]]
        offset = first + cells * row
    assert offset == len(tail)
    return b"".join(parts)
