"""The properties find bugs: each of these, put in on purpose, is found by one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from samovar.engine.batch import Batch
from samovar.engine.cells import CellLedger
from samovar.engine.engine import Engine
from samovar.engine.fairness import Tenants, WaitingLine
from samovar.engine.latency import StepCosts
from samovar.engine.prompts import Prompts
from samovar.engine.request import Running
from samovar.engine.seats import Cuts
from samovar.engine.sequence import Sequence
from samovar.native.interface import StateKind
from tests.engine import test_shares
from tests.engine.builders import KINDS
from tests.engine.scenarios import Scenario, Shape, scenarios
from tests.engine.test_interrupted import check_cancel_takes_effect_within_one_step
from tests.engine.test_promised_gap import MACHINES, check_the_promise

Patch = Callable[[pytest.MonkeyPatch], None]

LANES = [Shape(), Shape(batch_size=16), Shape(StateKind.INDIVISIBLE)]
POOLS = [Shape(kind, 150) for kind in KINDS]


def check_texts(shapes: list[Shape], *, is_faulty: bool = False) -> None:
    """The property of test_texts.py on a few shapes, in a fixed order."""

    @settings(
        max_examples=150,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(scenarios(st.sampled_from(shapes), is_faulty=is_faulty))
    def run(scenario: Scenario) -> None:
        scenario.judge(scenario.play())

    run()


def wrapped(owner: type, name: str, change: Callable[..., Any]) -> Patch:
    """Replace a method by `change`, which is given the original as well."""
    original = getattr(owner, name)

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(owner, name, lambda *args, **more: change(original, *args, **more))

    return patch


def share_without_counting(original: Callable[..., None], ledger: CellLedger, *args: int) -> None:
    """The copied cells belong to nobody but their first owner."""
    source, target, length = args
    ledger.cut(target, 0)
    ledger.grow(target, length)
    ledger.num_used -= length
    del original, source


def one_for_all(original: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
    """All choices draw with the first one's sampler."""
    made = original(*args)
    return [made[0]] * len(made)


def admit_too_far(original: Callable[..., None], one: Sequence, seq_id: int, *args: Any) -> None:  # noqa: ANN401
    """A resumed sequence skips a token."""
    computed, now = args
    original(one, seq_id, computed + (computed > 0), now)


def cut_too_late(original: Callable[..., int], *args: Any) -> int:  # noqa: ANN401
    """One token more than two sequences have in common."""
    _, _, held, _, tokens = args
    return min(original(*args) + 1, held, len(tokens) - 1)


def keep_count(original: Callable[..., None], one: Sequence) -> None:
    """A preempted sequence believes that its cells are still there."""
    computed = one.num_computed
    original(one)
    one.num_computed = computed


def newest_first(original: Callable[..., list[Sequence]], *args: Any) -> list[Sequence]:  # noqa: ANN401
    """Last come, first served."""
    return original(*args)[::-1]


def nothing(original: Callable[..., None], *args: Any, **more: Any) -> None:  # noqa: ANN401
    """What should be done is forgotten."""
    del original, args, more


MUTANTS: dict[str, tuple[Patch, Callable[[], None]]] = {
    "the newest goes first": (
        wrapped(WaitingLine, "in_order", newest_first),
        test_shares.check_order_of_arrival,
    ),
    "tenants are not charged": (
        wrapped(Tenants, "charge", nothing),
        test_shares.check_a_flood_does_not_stop_others,
    ),
    "waiting does not raise a priority": (
        wrapped(WaitingLine, "in_order", lambda original, line, _now: original(line, 0.0)),
        test_shares.check_aging,
    ),
    "cancelling is forgotten": (
        wrapped(Engine, "cancel", nothing),
        check_cancel_takes_effect_within_one_step,
    ),
    "a resumed sequence skips a token": (
        wrapped(Sequence, "admit", admit_too_far),
        lambda: check_texts(LANES),
    ),
    "a preempted sequence keeps its count": (
        wrapped(Sequence, "preempt", keep_count),
        lambda: check_texts(POOLS),
    ),
    "lost cells are believed to be there": (
        wrapped(Sequence, "lose_cells", nothing),
        lambda: check_texts(LANES, is_faulty=True),
    ),
    "choices share a sampler": (
        wrapped(Prompts, "samplers", one_for_all),
        lambda: check_texts(LANES),
    ),
    "choices draw with one seed": (
        wrapped(Running, "seed_of", lambda original, one, choice: original(one, 0 * choice)),
        lambda: check_texts(LANES),
    ),
    "a prefix is taken over one token too far": (
        wrapped(Cuts, "usable", cut_too_late),
        lambda: check_texts(LANES),
    ),
    "bridges are left behind": (
        wrapped(Batch, "_remove", nothing),
        lambda: check_texts(LANES),
    ),
    "shared cells are not counted": (
        wrapped(CellLedger, "share", share_without_counting),
        lambda: check_texts(POOLS),
    ),
    "the budget of prefill is ignored": (
        wrapped(
            StepCosts, "prefill_budget", lambda _original, _costs, _promised, largest, *_: largest
        ),
        lambda: check_the_promise(MACHINES["middling"], 4),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_bug_put_in_on_purpose_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, check = MUTANTS[name]
    check()
    patch(monkeypatch)
    with pytest.raises(AssertionError):
        check()
