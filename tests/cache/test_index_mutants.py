"""What compares the index with dictionaries finds bugs: each of these, put in on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from samovar.cache.index import policy
from samovar.cache.index.index import About, Index, Match, Node
from samovar.cache.index.queue import Queue
from samovar.cache.index.tree import Tree
from tests.cache.test_index import Machine

Patch = Callable[[pytest.MonkeyPatch], None]


def check_the_index() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=1500,  # it ends with the first that fails, mostly within a hundred
            stateful_step_count=40,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def parents_go_before_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def may_go(self: Queue, node: Node, gone: int = 0) -> bool:  # noqa: ARG001
        return bool(node.tiers & self.bit) and not node.holds

    monkeypatch.setattr(Queue, "may_go", may_go)


def leases_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def may_go(self: Queue, node: Node, gone: int = 0) -> bool:
        return bool(node.tiers & self.bit) and node.below[self.tier] <= gone

    monkeypatch.setattr(Queue, "may_go", may_go)


def what_is_held_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def hold(_: Tree, node: Node) -> None:
        node.holds += 1

    def let_go(_: Tree, node: Node) -> None:
        node.holds -= 1

    monkeypatch.setattr(Tree, "hold", hold)
    monkeypatch.setattr(Tree, "let_go", let_go)


def a_parent_that_comes_later_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(self: Tree, node: Node, parent: Node) -> None:
        holds, node.holds = node.holds, 0
        original(self, node, parent)
        node.holds = holds

    original = Tree._hang  # noqa: SLF001
    monkeypatch.setattr(Tree, "_hang", hang)


def what_is_released_is_never_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def let_go(self: Tree, node: Node) -> None:
        queues, self.queues = self.queues, ()
        original(self, node)
        self.queues = queues

    original = Tree.let_go
    monkeypatch.setattr(Tree, "let_go", let_go)


def only_one_length_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    def node(self: Tree, about: About) -> Node:
        found = original(self, about)
        assert found.parent is not None
        if found.parent.lengths:
            found.parent.lengths = found.parent.lengths[-1:]
        return found

    original = Tree.node
    monkeypatch.setattr(Tree, "node", node)


def a_state_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def match(
        self: Index,
        namespace: bytes,
        tokens: bytes,
        *,
        needs_state: bool = False,  # noqa: ARG001
    ) -> Match:
        return original(self, namespace, tokens)

    original = Index.match
    monkeypatch.setattr(Index, "match", match)


def ancestors_stay_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "_lift", lambda *_: None)


def hits_do_not_fade(monkeypatch: pytest.MonkeyPatch) -> None:
    original = policy.hit

    def hit(level: float, now: float, weight: float = 1.0, half_life: float = 1.0) -> float:
        return original(level, 0 * now, weight, half_life)

    monkeypatch.setattr(policy, "hit", hit)


def bytes_count_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    original = policy.density
    monkeypatch.setattr(policy, "density", lambda seconds, _: original(seconds, 1))


def what_lost_worth_stays_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Queue, "lowered", lambda *_: None)


def copies_are_counted_and_never_discounted(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(self: Tree, parent: Node, where: int, more: int) -> None:
        original(self, parent, where, max(more, 0))

    original = Tree._count  # noqa: SLF001
    monkeypatch.setattr(Tree, "_count", count)


@pytest.mark.parametrize(
    "mutant",
    [
        parents_go_before_children,
        leases_are_not_taken,
        what_is_held_holds_nothing,
        a_parent_that_comes_later_is_not_held,
        what_is_released_is_never_found_again,
        only_one_length_is_followed,
        a_state_is_not_looked_for,
        ancestors_stay_cold,
        hits_do_not_fade,
        bytes_count_for_nothing,
        what_lost_worth_stays_where_it_was,
        copies_are_counted_and_never_discounted,
    ],
)
def test_a_mutant_is_caught(mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises((AssertionError, KeyError, ValueError)):
        check_the_index()
