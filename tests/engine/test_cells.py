"""The ledger of a pool against the pool itself, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.engine.cells import CellLedger
from tests.conftest import scaled

SEQUENCES = 4


@dataclass
class Pool:
    """Every cell by its number, and who sees it."""

    seen: list[list[int]] = field(default_factory=lambda: [[] for _ in range(SEQUENCES)])
    next_cell: int = 0

    def grow(self, seq_id: int, count: int) -> None:
        self.seen[seq_id] += range(self.next_cell, self.next_cell + count)
        self.next_cell += count

    def cut(self, seq_id: int, length: int) -> None:
        del self.seen[seq_id][length:]

    def share(self, source: int, target: int, length: int) -> None:
        self.seen[target] = self.seen[source][:length]

    @property
    def num_used(self) -> int:
        return len({cell for cells in self.seen for cell in cells})

    def own(self, seq_id: int) -> int:
        others = {c for other, cells in enumerate(self.seen) if other != seq_id for c in cells}
        return len(set(self.seen[seq_id]) - others)


seq_ids = st.integers(0, SEQUENCES - 1)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), seq_ids, st.integers(0, 20)),
        st.tuples(st.just("cut"), seq_ids, st.floats(0, 1)),
        st.tuples(st.just("share"), seq_ids, seq_ids, st.floats(0, 1)),
    ),
    max_size=40,
)


@settings(max_examples=scaled(200, 10_000), database=None, deadline=None)
@given(operations)
def test_a_ledger_counts_what_counting_every_cell_gives(operations: list[tuple]) -> None:
    ledger, pool = CellLedger(1000, SEQUENCES), Pool()
    for what, *arguments in operations:
        if what == "grow":
            seq_id, count = arguments
            ledger.grow(seq_id, count)
            pool.grow(seq_id, count)
        elif what == "cut":
            seq_id, part = arguments
            length = round(part * len(pool.seen[seq_id]))
            ledger.cut(seq_id, length)
            pool.cut(seq_id, length)
        elif arguments[0] != arguments[1]:
            source, target, part = arguments
            length = round(part * len(pool.seen[source]))
            ledger.share(source, target, length)
            pool.share(source, target, length)
        assert ledger.num_used == pool.num_used
        assert ledger.num_free == 1000 - pool.num_used
        for seq_id in range(SEQUENCES):
            assert ledger.length(seq_id) == len(pool.seen[seq_id])
            assert ledger.own(seq_id) == pool.own(seq_id)


def test_a_shared_prefix_takes_no_cells_until_the_two_part() -> None:
    ledger = CellLedger(100, 2)
    ledger.grow(0, 40)
    ledger.share(0, 1, 30)
    assert (ledger.num_used, ledger.own(0), ledger.own(1)) == (40, 10, 0)
    ledger.grow(1, 5)
    assert (ledger.num_used, ledger.own(1)) == (45, 5)
    ledger.cut(0, 0)
    assert (ledger.num_used, ledger.own(1)) == (35, 35)


def test_cutting_to_more_than_there_is_changes_nothing() -> None:
    ledger = CellLedger(100, 1)
    ledger.grow(0, 10)
    ledger.cut(0, 20)
    assert (ledger.length(0), ledger.num_used) == (10, 10)
