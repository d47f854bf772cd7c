"""Rows that are read to where the backend wants them: the same texts, from fewer copies."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from samovar.cache.index.node import Tier
from samovar.errors import StateRejected
from samovar.native.interface import Piece, Row, StateKind
from samovar.native.weightless import WeightlessBackend
from tests.engine.builders import KINDS, MODES, Model, Trial, block, expected, request
from tests.engine.cached import Place, place, transfer_of
from tests.engine.test_cached_faults import (
    PROMPT,
    Gate,
    end,
    fill,
    flip,
    gate,  # noqa: F401 - a fixture
    restoring,
    say,
    slow,
    started,
    store_of,
)

ASKED = request("a", (*PROMPT, 3, *block(2, 20)), max_tokens=10)


@dataclass
class Imports:
    """What the backend was handed, how often."""

    pieces: int = 0
    ranges: int = 0


def watched(trial: Trial) -> Imports:
    """Count from now on."""
    found, backend = Imports(), trial.backend
    import_piece, import_ranges = backend.import_piece, backend.import_ranges

    def piece(one: Piece) -> None:
        found.pieces += 1
        import_piece(one)

    def ranges(*args: Any) -> None:  # noqa: ANN401 - handed on
        found.ranges += 1
        import_ranges(*args)

    backend.import_piece, backend.import_ranges = piece, ranges  # type: ignore[method-assign]
    return found


def again(
    where: Place, kind: StateKind = StateKind.DIVISIBLE, **more: object
) -> tuple[Trial, Imports]:
    """A second life on what a place holds."""
    trial = started(where, kind, **more)
    return trial, watched(trial)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_files_enters_as_a_piece_where_a_state_is_nothing_but_rows(
    kind: StateKind, mode: str
) -> None:
    more = {"is_deterministic": mode == "deterministic"}
    with place() as where:
        fill(where, kind, **more)
        trial, imports = again(where, kind, **more)
        assert say(trial, ASKED) >= (90 if mode == "deterministic" else 140)
        is_rows = kind is StateKind.DIVISIBLE
        assert (imports.pieces, imports.ranges) == ((1, 0) if is_rows else (0, 1))
        assert trial.answers["a"].finished.usage.cached.disk >= 90
        counters = store_of(trial).counters
        assert counters.restored_bytes["disk"] > 0
        assert counters.restored_bytes["memory"] == 0
        assert store_of(trial).index.bytes_of(Tier.MEMORY) > 0
        end(trial)


def test_what_is_in_memory_enters_as_ranges() -> None:
    with place() as where:
        fill(where, StateKind.DIVISIBLE)
        trial, imports = again(where)
        store = store_of(trial)
        path = store.match(store.scope(), list(ASKED.prompt)).path
        with store.lease(store.scope(), path):
            transfer_of(store).work()
            store.poll()
        assert say(trial, ASKED) >= 140
        assert (imports.pieces, imports.ranges) == (0, 1)
        end(trial)


def test_blocks_from_memory_and_rows_from_files_come_together() -> None:
    with place() as where:
        fill(where, StateKind.DIVISIBLE)
        trial, imports = again(where)
        store = store_of(trial)
        path = store.match(store.scope(), list(ASKED.prompt)).path
        with store.lease(store.scope(), path[::2]) as some:
            transfer_of(store).work()
            store.poll()
            assert some.is_whole
        assert say(trial, ASKED) >= 140
        assert (imports.pieces, imports.ranges) == (1, 0)
        cached = trial.answers["a"].finished.usage.cached
        assert cached.memory > 40
        assert cached.disk > 40
        end(trial)


def test_logits_come_with_the_last_block() -> None:
    asked = request("a", PROMPT, max_tokens=1, temperature=0.9, seed=4)
    with place(keeps_logits=True) as where:
        first = started(where)
        say(first, asked)
        end(first)
        trial, imports = again(where)
        assert say(trial, asked) == len(PROMPT)
        assert not trial.calls
        assert (imports.pieces, imports.ranges) == (1, 0)
        end(trial)


@pytest.mark.parametrize("at", [0, 0.4, 1])
def test_a_bad_block_leaves_what_is_before_it(at: float) -> None:
    with place() as where:
        fill(where, StateKind.DIVISIBLE)
        trial, imports = again(where)
        store = store_of(trial)
        path = store.match(store.scope(), list(ASKED.prompt)).path
        bad = path[round(at * (len(path) - 1))]
        [file] = where.folder.glob(f"disk/*/blocks/{bad.key.hex()}.*.r")
        flip(file, random.Random(1))
        assert say(trial, ASKED) == (bad.start if bad.start >= 32 else 0)
        assert imports.pieces == 0
        assert sum(store.counters.bad_blocks.values()) == 1
        end(trial)


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_after_a_piece_that_is_refused_come_its_blocks(takes_ranges: bool) -> None:  # noqa: FBT001
    with place() as where:
        fill(where, StateKind.DIVISIBLE)
        trial = started(where)

        def refuse(*_: object) -> None:
            raise StateRejected("not this one")

        trial.backend.import_piece = refuse  # type: ignore[method-assign]
        if not takes_ranges:
            trial.backend.import_ranges = refuse  # type: ignore[method-assign]
        assert say(trial, ASKED) == (151 if takes_ranges else 0)
        assert store_of(trial).counters.restore_failures == (1 if takes_ranges else 3)
        end(trial)


def test_without_memory_for_a_piece_blocks_are_put_together() -> None:
    with place() as where:
        fill(where, StateKind.DIVISIBLE)
        trial, imports = again(where)
        trial.backend.new_piece = lambda *_: None  # type: ignore[method-assign]
        assert say(trial, ASKED) >= 140
        assert (imports.pieces, imports.ranges) == (0, 1)
        end(trial)


@pytest.mark.parametrize("layout", [None, 900])
def test_several_are_brought_at_the_same_time(layout: int | None, gate: Gate) -> None:  # noqa: F811
    """Two want the same blocks, which are read once, and one wants others."""
    other = (*block(3, 120), 1)
    with place(memory_bytes=0) as where:
        fill(where, StateKind.DIVISIBLE)
        first = started(where)
        say(first, request("o", other, max_tokens=2))
        end(first)
        trial, imports = again(slow(where, gate), num_cells=layout)
        asked = [
            request("a", (*PROMPT, 3, *block(2, 20)), max_tokens=10),
            request("b", (*PROMPT, 3, *block(2, 25)), max_tokens=10),
            request("c", (*other, *block(1, 20)), max_tokens=10),
        ]
        for one in asked:
            trial.submit(one)
        trial.step(4)
        waiting = restoring(trial)
        assert {"a", "c"} <= set(waiting)
        gate.is_open.set()
        trial.finish()
        for one in asked:
            assert trial.answers[one.request_id].said() == expected(one, Model(512, -1e3))
        assert imports.pieces == len(waiting)
        end(trial)


def test_whose_piece_is_still_being_filled_is_cancelled_and_its_seat_taken(
    gate: Gate,  # noqa: F811
) -> None:
    with place(memory_bytes=0) as where:
        fill(where, StateKind.DIVISIBLE)
        trial, imports = again(slow(where, gate))
        pieces, new_piece = [], trial.backend.new_piece

        def noted(*args: Any) -> object:  # noqa: ANN401
            pieces.append(new_piece(*args))
            return pieces[-1]

        trial.backend.new_piece = noted  # type: ignore[method-assign,assignment]
        trial.submit(ASKED)
        trial.step(2)
        assert restoring(trial) == ["a"]
        assert gate.has_come.wait(60)
        trial.cancel("a")
        trial.step(2)
        taken = [request(f"t{n}", block(3 + n, 60), max_tokens=40) for n in range(3)]
        for one in taken:
            trial.submit(one)
        trial.step(4)
        assert {seat.seq_id for seat in trial.engine.scheduler.running} == {0, 1, 2}
        gate.is_open.set()
        assert transfer_of(store_of(trial)).flush(60)
        assert pieces[0].rows.any()  # it was written, and nobody looks at it any more
        trial.finish()
        for one in taken:
            assert trial.answers[one.request_id].said() == expected(one, Model(512, -1e3))
        assert imports.pieces == 0
        end(trial)


def test_rows_that_were_not_written_would_show() -> None:
    """The weightless backend tells a piece that is not whole from one that is."""
    backend = WeightlessBackend()
    backend.prefill([1, 2, 3])
    piece = backend.new_piece(1, [1, 2, 3])
    assert piece is not None
    for start, rows in enumerate(backend.export_ranges(0, [(0, 1), (1, 2)])):
        piece.places(start, start + 1)[0][:] = memoryview(rows.payload)
    backend.import_piece(piece)
    following = []
    for seq_id in (0, 1):
        backend.step([Row(seq_id, [4])])
        following.append(backend.logits(seq_id).tobytes())
    assert following[0] != following[1]
