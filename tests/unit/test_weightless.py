"""The backend without weights, and the random walk that every backend must survive.

`Walk` drives a backend with random operations beside a model of it that knows nothing of cells:
lists of tokens. The tests of llama.cpp walk with it as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from samovar.errors import (
    DecodeTimeout,
    NativeError,
    NoLogits,
    OperationUnsupported,
    Overloaded,
    StateRejected,
)
from samovar.native.interface import (
    Aborted,
    Backend,
    NoRoom,
    Range,
    Row,
    RowFailed,
    Sampled,
    StateKind,
    Stepped,
)
from samovar.native.weightless import CELL_BYTES, WeightlessBackend
from samovar.types import SamplingParams
from tests.conftest import scaled

KINDS = [kind for kind in StateKind if kind is not StateKind.NONE]

# ---- the walk -----------------------------------------------------------------------------------

Cell = tuple[int, int]
"""A token, and the set of adapters under which it was computed."""

seq_ids = st.integers(0, 3)
runs_of_tokens = st.lists(st.integers(5, 250), min_size=1, max_size=12)


@dataclass
class Saved:
    """A sequence that was taken out, as a pack or as ranges with a tail."""

    cells: list[Cell]
    applied: int
    has_logits: bool
    packed: bytes
    ranges: list[Range]
    tail: bytes


class Probe:
    """A sampler that shows the logits it was given."""

    params = SamplingParams()
    seed = 0
    seen = np.empty(0, np.float32)

    def sample(self, logits: np.ndarray, position: int) -> Sampled:  # noqa: ARG002
        self.seen = logits.copy()
        return Sampled(int(logits.argmax()), is_eog=False)

    def accept(self, token: int) -> None:
        """Nothing to remember."""

    def close(self) -> None:
        """Nothing to free."""


def logits_of(backend: Backend, seq_id: int) -> np.ndarray:
    probe = Probe()
    backend.sample(seq_id, probe)
    return probe.seen


def last_batch(backend: Backend, tokens: list[int]) -> list[list[int]]:
    size = backend.batch_size
    return [tokens[i : i + size] for i in range(0, len(tokens), size)]


class Walk(RuleBasedStateMachine):
    """Random operations. `backend` and `oracle` are alike; the oracle only ever starts afresh."""

    def __init__(self, backend: Backend, oracle: Backend, adapters: list[str]) -> None:
        super().__init__()
        self.backend, self.oracle = backend, oracle
        self.mine = [backend.load_adapter(path) for path in adapters]
        self.its = [oracle.load_adapter(path) for path in adapters]
        self.cells: list[list[Cell]] = [[] for _ in range(4)]
        self.fresh = [False] * 4
        self.applied = 0
        self.saved: list[Saved] = []

    # -- what a check may allow

    tolerance = 0.0
    """Between logits of the same text."""

    def may_cut(self) -> bool | None:
        """Whether a sequence can be cut in the middle; None: it depends."""
        return self.backend.state_kind is StateKind.DIVISIBLE

    # -- the model

    def tokens(self, seq_id: int) -> list[int]:
        return [token for token, _ in self.cells[seq_id]]

    def is_savable(self, seq_id: int) -> bool:
        return {under for _, under in self.cells[seq_id]} <= {self.applied}

    def expected(self, cells: list[Cell]) -> np.ndarray:
        """The logits after `cells`, from scratch."""
        self.oracle.seq_rm(0)
        for under, group in groupby(cells, key=lambda cell: cell[1]):
            self.oracle.apply_adapters(attached(self.its, under))
            for chunk in last_batch(self.oracle, [token for token, _ in group]):
                assert isinstance(self.oracle.step([Row(0, chunk)]), Stepped)
        return logits_of(self.oracle, 0)

    # -- operations

    @rule(data=st.data(), who=st.lists(seq_ids, min_size=1, max_size=4, unique=True))
    def step(self, data: st.DataObject, who: list[int]) -> None:
        rows = [
            Row(s, data.draw(runs_of_tokens), wants_logits=data.draw(st.booleans())) for s in who
        ]
        if self.overflows(rows):
            return
        outcome = self.backend.step(rows)
        if isinstance(outcome, NoRoom):
            return  # the invariants say that nothing changed
        assert outcome == Stepped((None,) * len(rows))
        for row in rows:
            self.cells[row.seq_id] += [(token, self.applied) for token in row.tokens]
            self.fresh[row.seq_id] = row.wants_logits

    def overflows(self, rows: list[Row]) -> bool:
        length = self.backend.context_length
        return any(len(self.cells[r.seq_id]) + len(r.tokens) > length for r in rows)

    @precondition(lambda self: not self.fresh[0])
    @rule()
    def decode_one_without_logits(self) -> None:
        with pytest.raises(NoLogits):
            self.backend.decode_one()

    @precondition(lambda self: self.fresh[0] and len(self.cells[0]) < self.backend.context_length)
    @rule()
    def decode_one(self) -> None:
        expected = int(logits_of(self.backend, 0).argmax())
        try:
            assert self.backend.decode_one().token == expected
        except Overloaded:
            return
        self.cells[0].append((expected, self.applied))

    @rule(seq_id=seq_ids, share=st.floats(0, 1))
    def cut(self, seq_id: int, share: float) -> None:
        held = len(self.cells[seq_id])
        start = round(share * held)
        done = self.backend.seq_rm(seq_id, start)
        expected = True if start in (0, held) else self.may_cut()
        assert done is expected or expected is None
        if done and start < held:
            del self.cells[seq_id][start:]
            self.fresh[seq_id] = False

    @precondition(lambda self: any(self.cells))
    @rule(data=st.data())
    def copy(self, data: st.DataObject) -> None:
        source = data.draw(st.sampled_from([s for s in range(4) if self.cells[s]]))
        target = data.draw(st.sampled_from([s for s in range(4) if s != source]))
        try:
            self.backend.seq_cp(source, target)
        except StateRejected:  # no room for a copy of its own
            self.cells[target], self.fresh[target] = [], False
            return
        self.cells[target] = list(self.cells[source])
        self.fresh[target] = self.fresh[source]

    @rule(seq_id=seq_ids)
    def save(self, seq_id: int) -> None:
        tokens, held = self.tokens(seq_id), len(self.cells[seq_id])
        if not self.is_savable(seq_id):
            with pytest.raises(StateRejected):
                self.backend.kv_pack(tokens, seq_id)
            return
        packed = self.backend.kv_pack(tokens, seq_id)
        ranges: list[Range] = []
        if held and self.backend.state_kind is not StateKind.INDIVISIBLE:
            cuts = sorted({0, held // 3, held // 2, held})
            ranges = self.backend.export_ranges(seq_id, list(pairwise(cuts)))
        tail = self.backend.export_tail(seq_id)
        cells = list(self.cells[seq_id])
        self.saved.append(Saved(cells, self.applied, self.fresh[seq_id], packed, ranges, tail))

    def restores(self, saved: Saved, seq_id: int, attempt: object) -> bool:
        """Run `attempt`; whether it restored. What is refused left the sequence, or emptied it."""
        try:
            attempt()  # type: ignore[operator]
        except StateRejected:
            if not self.backend.tokens(seq_id):
                self.cells[seq_id], self.fresh[seq_id] = [], False
            return False
        self.cells[seq_id] = list(saved.cells)
        return True

    @precondition(lambda self: self.saved)
    @rule(data=st.data(), seq_id=seq_ids)
    def unpack(self, data: st.DataObject, seq_id: int) -> None:
        saved = data.draw(st.sampled_from(self.saved))
        before = self.cells[seq_id]
        if not self.restores(saved, seq_id, lambda: self.backend.kv_unpack(saved.packed, seq_id)):
            if saved.applied != self.applied and saved.cells:
                assert self.cells[seq_id] == before
            return
        assert saved.applied == self.applied
        divisible = self.backend.state_kind is StateKind.DIVISIBLE
        self.fresh[seq_id] = saved.has_logits and not divisible

    @precondition(lambda self: any(saved.ranges for saved in self.saved))
    @rule(data=st.data(), seq_id=seq_ids)
    def import_ranges(self, data: st.DataObject, seq_id: int) -> None:
        saved = data.draw(st.sampled_from([saved for saved in self.saved if saved.ranges]))
        if saved.applied != self.applied:
            return  # whoever keeps ranges keeps them by namespace
        tokens = [token for token, _ in saved.cells]
        if self.restores(
            saved,
            seq_id,
            lambda: self.backend.import_ranges(seq_id, tokens, saved.ranges, saved.tail),
        ):
            self.fresh[seq_id] = False

    @precondition(lambda self: any(saved.ranges for saved in self.saved))
    @rule(data=st.data(), seq_id=seq_ids)
    def import_piece(self, data: st.DataObject, seq_id: int) -> None:
        saved = data.draw(st.sampled_from([saved for saved in self.saved if saved.ranges]))
        if saved.applied != self.applied:
            return
        piece = self.backend.new_piece(seq_id, [token for token, _ in saved.cells])
        assert (piece is not None) is (self.backend.state_kind is StateKind.DIVISIBLE)
        if piece is None:
            return
        for one in data.draw(st.permutations(saved.ranges)):
            rows = np.frombuffer(one.payload, np.uint8)
            places = piece.places(one.start, one.end)
            bounds = np.cumsum([place.nbytes for place in places])
            for place, part in zip(places, np.split(rows, bounds)[:-1], strict=True):
                place[:] = part
        if self.restores(saved, seq_id, lambda: self.backend.import_piece(piece)):
            self.fresh[seq_id] = False

    @precondition(lambda self: self.saved)
    @rule(data=st.data(), seq_id=seq_ids)
    def unpack_damaged(self, data: st.DataObject, seq_id: int) -> None:
        damaged = bytearray(data.draw(st.sampled_from(self.saved)).packed)
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1
        with pytest.raises(StateRejected):
            self.backend.kv_unpack(bytes(damaged), seq_id)

    @rule(which=st.integers(0, 2))
    def apply(self, which: int) -> None:
        which = min(which, len(self.mine))
        self.backend.apply_adapters(attached(self.mine, which))
        if which != self.applied:
            self.fresh = [False] * 4
        self.applied = which

    @rule(seq_id=seq_ids)
    def look(self, seq_id: int) -> None:
        """What comes next is what comes next of the same text from scratch."""
        if not self.fresh[seq_id]:
            return
        found, expected = logits_of(self.backend, seq_id), self.expected(self.cells[seq_id])
        assert float(np.abs(found - expected).max()) <= self.tolerance

    @invariant()
    def tokens_and_logits_are_what_the_model_says(self) -> None:
        assert [self.backend.tokens(s) for s in range(4)] == [self.tokens(s) for s in range(4)]
        assert [self.backend.has_logits(s) for s in range(4)] == self.fresh

    def teardown(self) -> None:
        for seq_id in range(4):
            self.look(seq_id)
            if self.cells[seq_id] and not self.fresh[seq_id]:
                self.go_on(seq_id)
        self.backend.close()

    def go_on(self, seq_id: int) -> None:
        """Bring logits back by one more token, and look."""
        row = Row(seq_id, [5])
        if self.overflows([row]) or isinstance(self.backend.step([row]), NoRoom):
            return
        self.cells[seq_id].append((5, self.applied))
        self.fresh[seq_id] = True
        self.look(seq_id)


def attached(adapters: list[object], which: int) -> list[tuple[object, float]]:
    """No adapter, the first, or both."""
    return [(adapter, 1.0) for adapter in adapters[:which]]


class WeightlessWalk(Walk):
    """Faults may be asked for, and everything is exact."""

    @initialize()
    def begin(self) -> None:
        assert isinstance(self.backend, WeightlessBackend)

    @rule(who=st.lists(seq_ids, min_size=1, max_size=4, unique=True), data=st.data())
    def interrupt(self, who: list[int], data: st.DataObject) -> None:
        rows = [Row(s, [9]) for s in who]
        if self.overflows(rows):
            return
        lost = tuple(data.draw(st.lists(st.sampled_from(who), unique=True)))
        self.backend.fail_next(Aborted(lost=lost))  # type: ignore[attr-defined]
        assert self.backend.step(rows) == Aborted(lost=lost)
        for seq_id in who:
            self.fresh[seq_id] = False
        for seq_id in lost:
            self.cells[seq_id] = []


@pytest.mark.parametrize("num_cells", [None, 60], ids=["roomy", "crowded"])
@pytest.mark.parametrize("kind", KINDS)
def test_random_operations_leave_what_the_tokens_say(
    kind: StateKind, num_cells: int | None
) -> None:
    def start() -> Walk:
        backend = WeightlessBackend(state_kind=kind, num_cells=num_cells, context_length=64)
        oracle = WeightlessBackend(context_length=64)
        return WeightlessWalk(backend, oracle, ["one", "two"])

    run_state_machine_as_test(
        start,
        settings=settings(
            max_examples=scaled(60, 400), stateful_step_count=40, database=None, deadline=None
        ),
    )


# ---- the backend itself -------------------------------------------------------------------------


def after(tokens: list[int], backend: WeightlessBackend | None = None) -> np.ndarray:
    backend = backend or WeightlessBackend()
    backend.prefill(tokens)
    return logits_of(backend, 0)


@settings(max_examples=scaled(100, 1000), database=None, deadline=None)
@given(st.lists(st.integers(0, 257), min_size=1, max_size=80), st.data())
def test_the_next_token_depends_on_every_token_and_on_their_order(
    tokens: list[int], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(tokens) - 1))
    other = [*tokens[:at], (tokens[at] + 1) % 258, *tokens[at + 1 :]]
    assert np.array_equal(after(tokens), after(tokens))
    assert not np.array_equal(after(tokens), after(other))
    assert not np.array_equal(after(tokens), after([*tokens, 0]))
    if tokens != tokens[::-1]:
        assert not np.array_equal(after(tokens), after(tokens[::-1]))


@settings(max_examples=scaled(50, 400), database=None, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=2, max_size=60), st.data())
def test_how_a_text_is_cut_into_steps_makes_no_difference(
    tokens: list[int], data: st.DataObject
) -> None:
    backend = WeightlessBackend()
    left = tokens
    while left:
        size = data.draw(st.integers(1, len(left)))
        backend.step([Row(1, left[:size]), Row(2, [7])])
        left = left[size:]
    assert np.array_equal(logits_of(backend, 1), after(tokens))


@pytest.mark.parametrize("at", [0, 7, 19])
def test_a_stale_a_foreign_or_a_misplaced_cell_changes_what_comes_next(at: int) -> None:
    backend = WeightlessBackend()
    tokens = list(range(40, 60))
    expected = after(tokens, backend)
    cells = backend.export_ranges(0, [(i, i + 1) for i in range(20)])
    backend.seq_rm(0)
    backend.prefill([*range(100, 120)])
    foreign = backend.export_ranges(0, [(i, i + 1) for i in range(20)])
    for wrong in (foreign[at], Range(at, at + 1, cells[at - 1].payload)):
        backend.import_ranges(1, tokens, [*cells[:at], wrong, *cells[at + 1 :]])
        backend.step([Row(1, [9])])
        assert not np.array_equal(logits_of(backend, 1), expected)
    backend.import_ranges(1, tokens, cells)
    backend.step([Row(1, [9])])
    assert np.array_equal(logits_of(backend, 1), after([*tokens, 9]))


def test_a_row_has_the_documented_size() -> None:
    backend = WeightlessBackend()
    backend.prefill([1, 2, 3])
    assert [r.payload.nbytes for r in backend.export_ranges(0, [(0, 3), (1, 2)])] == [
        3 * CELL_BYTES,
        CELL_BYTES,
    ]


def test_queued_outcomes_come_one_by_one_and_change_nothing_else() -> None:
    backend = WeightlessBackend()
    backend.prefill([1, 2])
    backend.fail_next(NoRoom(), Aborted(timed_out=True), NativeError("once a year"))
    before = logits_of(backend, 0)
    assert isinstance(backend.step([Row(0, [3])]), NoRoom)
    assert np.array_equal(logits_of(backend, 0), before)
    assert backend.step([Row(0, [3]), Row(1, [4])]) == Aborted(timed_out=True)
    assert not backend.has_logits(0)
    with pytest.raises(NativeError):
        backend.step([Row(0, [3])])
    assert backend.tokens(0) == [1, 2]
    assert isinstance(backend.step([Row(0, [3])]), Stepped)
    assert np.array_equal(logits_of(backend, 0), after([1, 2, 3]))


def test_queued_outcomes_reach_the_reference_operations_as_errors() -> None:
    backend = WeightlessBackend()
    for outcome, error in ((NoRoom(), Overloaded), (Aborted(), DecodeTimeout)):
        backend.fail_next(outcome)
        with pytest.raises(error):
            backend.prefill([1])
    assert backend.tokens(0) == []


def test_full_cells_are_no_room_until_a_sequence_leaves() -> None:
    backend = WeightlessBackend(num_cells=10)
    backend.step([Row(0, [1] * 8)])
    assert isinstance(backend.step([Row(1, [1] * 3)]), NoRoom)
    assert backend.calls == 1
    backend.seq_rm(0)
    assert isinstance(backend.step([Row(1, [1] * 3)]), Stepped)


def test_full_cells_take_no_saved_state() -> None:
    backend = WeightlessBackend(num_cells=10)
    backend.prefill([1] * 6)
    packed, ranges = backend.kv_pack([1] * 6), backend.export_ranges(0, [(0, 6)])
    for attempt in (
        lambda: backend.kv_unpack(packed, 1),
        lambda: backend.import_ranges(1, [1] * 6, ranges),
        lambda: backend.import_piece(backend.new_piece(1, [1] * 6)),
    ):
        with pytest.raises(StateRejected):
            attempt()
        assert backend.tokens(1) == []
    backend.seq_rm(0)
    backend.kv_unpack(packed, 1)


def test_a_row_whose_sampler_fails_does_not_hurt_its_siblings() -> None:
    class Failing(Probe):
        def sample(self, logits: np.ndarray, position: int) -> Sampled:  # noqa: ARG002
            raise NativeError("no token is left")

    backend = WeightlessBackend()
    outcome = backend.step([Row(0, [1], Failing()), Row(1, [2], Probe())])
    assert isinstance(outcome, Stepped)
    assert isinstance(outcome.results[0], RowFailed)
    assert outcome.results[1] == Sampled(int(after([2]).argmax()), is_eog=False)
    assert backend.tokens(0) == [1]


def test_no_state_is_saved_without_a_kind() -> None:
    backend = WeightlessBackend(state_kind=StateKind.NONE)
    backend.prefill([1, 2])
    for attempt in (
        lambda: backend.kv_pack([1, 2]),
        lambda: backend.kv_unpack(b""),
        lambda: backend.export_ranges(0, [(0, 1)]),
        lambda: backend.export_tail(0),
        lambda: backend.import_ranges(1, [1], [Range(0, 1, memoryview(bytes(CELL_BYTES)))]),
        lambda: backend.new_piece(1, [1]),
    ):
        with pytest.raises(OperationUnsupported):
            attempt()


def test_a_tail_is_only_good_at_its_own_position() -> None:
    backend = WeightlessBackend(state_kind=StateKind.DIVISIBLE_WITH_TAIL)
    backend.prefill([1, 2])
    early = backend.export_tail(0)
    backend.prefill([3])
    ranges = backend.export_ranges(0, [(0, 3)])
    for wrong in (early, b"", bytes(32)):
        with pytest.raises(StateRejected):
            backend.import_ranges(1, [1, 2, 3], ranges, wrong)
        assert backend.tokens(1) == []
    backend.import_ranges(1, [1, 2, 3], ranges, backend.export_tail(0))


@pytest.mark.parametrize("kind", [StateKind.DIVISIBLE_WITH_TAIL, StateKind.INDIVISIBLE])
def test_only_divisible_state_can_be_cut(kind: StateKind) -> None:
    backend = WeightlessBackend(state_kind=kind)
    backend.prefill([1, 2, 3])
    before = logits_of(backend, 0)
    assert backend.seq_rm(0, 2) is False
    assert backend.seq_rm_last(3) is False
    assert backend.tokens(0) == [1, 2, 3]
    assert np.array_equal(logits_of(backend, 0), before)
    assert backend.seq_rm(0)


def test_a_detached_adapter_takes_its_logits_with_it() -> None:
    backend = WeightlessBackend()
    adapter = backend.load_adapter("some")
    backend.apply_adapters([(adapter, 1.0)])
    backend.prefill([1, 2])
    backend.unload_adapter(adapter)
    assert not backend.has_logits(0)
    with pytest.raises(StateRejected):
        backend.kv_pack([1, 2])
