"""Rows that are put where llama.cpp wants them, one range at a time, enter as ranges do."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest

from modelmaker.model import KINDS as MADE
from samovar.errors import ContextOverflow, InvalidRequest, InvalidToken, StateRejected
from samovar.native import codec as codec_module
from samovar.native import state
from samovar.native.blob import HEADER, write_attention
from samovar.native.interface import Backend, Piece, Range, StateKind
from samovar.native.scratch import Scratch
from samovar.native.weightless import WeightlessBackend
from tests.conftest import Models
from tests.native.test_backend import forced, prime, prompt, put
from tests.native.test_state import (
    KINDS,
    LAYOUTS,
    LENGTH,
    TAILED,
    neighbours,
    open_kind,
    same,
    whole,
    with_sections,
)

pytestmark = pytest.mark.native

DIVISIBLE = tuple(kind for kind in KINDS if kind not in (*TAILED, "mamba"))


def fill(piece: Piece, rows: Range) -> None:
    """Copy a range to where it belongs."""
    payload, done = np.frombuffer(rows.payload, np.uint8), 0
    for place in piece.places(rows.start, rows.end):
        place[:] = payload[done : done + place.nbytes]
        done += place.nbytes
    assert done == payload.nbytes


def new_piece(backend: Backend, seq_id: int, tokens: list[int]) -> Piece:
    piece = backend.new_piece(seq_id, tokens)
    assert piece is not None
    return piece


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
@pytest.mark.parametrize("kind", DIVISIBLE)
def test_a_piece_is_byte_for_byte_what_ranges_are_put_together_to(
    models: Models, kind: str, quant: str, layout: str
) -> None:
    chance = random.Random(f"{kind} {layout}")
    with open_kind(models, kind, quant, layout=layout) as (backend, context):
        streams, shape = context.num_streams, state.probe(context).layout
        assert shape is not None
        neighbours(backend)
        put(backend, 1, prompt(LENGTH))
        tokens, ranges, _ = whole(backend, 1)
        for seq_id in (2, 0, 3):
            piece = new_piece(backend, seq_id, tokens)
            for one in chance.sample(ranges, len(ranges)):
                fill(piece, one)
            blob = np.zeros(HEADER + shape.section_bytes(LENGTH, streams), np.uint8)
            assert write_attention(blob, seq_id, streams, shape, tokens, ranges) == len(blob)
            assert np.array_equal(piece.blob, blob)  # type: ignore[attr-defined]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "options",
    [{}, {"type_k": "q8_0", "type_v": "q8_0"}, {"type_k": "bf16", "type_v": "q4_0"}],
    ids=["f16", "q8_0", "bf16 and q4_0"],
)
@pytest.mark.parametrize("kind", [*DIVISIBLE, "qwen2vl"])
def test_what_enters_as_a_piece_goes_on_as_what_was_computed(
    models: Models,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    options: dict[str, object],
    layout: str,
) -> None:
    monkeypatch.setitem(MADE, "qwen2vl", with_sections)
    with open_kind(models, kind, layout=layout, **options) as (backend, _):
        neighbours(backend)
        put(backend, 1, prompt(LENGTH))
        tokens, ranges, _ = whole(backend, 1)
        prime(backend, 1)
        expected = forced(backend, 1, [5, 6, 7])
        piece = new_piece(backend, 2, tokens)
        put(backend, 2, prompt(30, 4))  # something else to replace
        for one in reversed(ranges):
            fill(piece, one)
        backend.import_piece(piece)
        assert backend.tokens(2) == prompt(LENGTH)
        assert not backend.has_logits(2)
        assert [bytes(r.payload) for r in whole(backend, 2)[1]] == [
            bytes(r.payload) for r in ranges
        ]
        prime(backend, 2)
        assert same(forced(backend, 2, [5, 6, 7]), expected, kind, layout)


def test_several_pieces_are_filled_at_the_same_time_by_other_threads(models: Models) -> None:
    with open_kind(models, "llama") as (backend, _):
        wanted = {2: prompt(150, 1), 3: prompt(200, 2)}
        pieces = []
        for seq_id, tokens in wanted.items():
            put(backend, seq_id - 2, tokens)
            ranges = whole(backend, seq_id - 2)[1]
            piece = new_piece(backend, seq_id, tokens)
            pieces.append(piece)
            threads = [threading.Thread(target=fill, args=(piece, one)) for one in ranges]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for piece in pieces:
            backend.import_piece(piece)
        for seq_id, tokens in wanted.items():
            assert backend.tokens(seq_id) == tokens
            found, expected = (whole(backend, one)[1] for one in (seq_id, seq_id - 2))
            assert [bytes(r.payload) for r in found] == [bytes(r.payload) for r in expected]


@pytest.mark.parametrize("kind", [*TAILED, "mamba"])
def test_states_that_are_more_than_rows_have_no_pieces(models: Models, kind: str) -> None:
    with open_kind(models, kind) as (backend, _):
        assert backend.new_piece(1, prompt(20)) is None


def test_transposed_rows_have_no_pieces(models: Models) -> None:
    with open_kind(models, "llama", flash_attention="off") as (backend, _):
        assert backend.state_kind is StateKind.DIVISIBLE
        assert backend.new_piece(1, prompt(20)) is None


def test_no_more_pieces_are_made_than_there_is_memory_for(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_module, "Scratch", lambda: Scratch(2**20))
    with open_kind(models, "llama") as (backend, _):
        put(backend, 0, prompt(LENGTH))
        tokens, ranges, _ = whole(backend, 0)
        pieces = []
        while (piece := backend.new_piece(1, tokens)) is not None:
            pieces.append(piece)
        assert 1 <= len(pieces) <= 2**20 // (LENGTH * 128)
        backend.import_ranges(2, tokens, ranges)  # in memory of its own
        places = pieces.pop().places(0, 1)
        assert backend.new_piece(1, tokens) is None  # somebody may still write there
        places.clear()
        assert backend.new_piece(1, tokens) is not None


def test_a_piece_is_checked_like_ranges(models: Models) -> None:
    with open_kind(models, "llama") as (backend, _):
        backend.prefill([5, 6])
        with pytest.raises(InvalidToken):
            backend.new_piece(1, [5, 100_000])
        with pytest.raises(InvalidRequest):
            backend.new_piece(4, [5, 6])
        assert backend.new_piece(1, []) is None
        long = new_piece(backend, 0, [5] * (backend.context_length + 1))
        with pytest.raises(ContextOverflow):
            backend.import_piece(long)
        piece = new_piece(backend, 1, [5, 6, 7])
        for start, end in ((-1, 1), (0, 4), (2, 2), (2, 1)):
            with pytest.raises(StateRejected):
                piece.places(start, end)
        foreign = new_piece(WeightlessBackend(), 1, [5, 6])
        with pytest.raises(StateRejected):
            backend.import_piece(foreign)
        with pytest.raises(StateRejected):
            WeightlessBackend().import_piece(piece)
        assert backend.tokens(0) == [5, 6]


def test_a_piece_that_llama_cpp_refuses_leaves_an_empty_sequence(models: Models) -> None:
    with open_kind(models, "llama") as (backend, _):
        put(backend, 1, prompt(20))
        piece = new_piece(backend, 1, prompt(30))
        piece.blob[:4] = 0  # type: ignore[attr-defined]
        with pytest.raises(StateRejected):
            backend.import_piece(piece)
        assert backend.tokens(1) == []
