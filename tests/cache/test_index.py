"""The index against dictionaries: what is found, what may go, and in which order."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from samovar.cache.block import ROWS, STATE
from samovar.cache.index import policy
from samovar.cache.index.index import About, Index, Node, Tier
from samovar.cache.index.queue import Queue
from samovar.cache.keys import ROOT, block_key, pack_tokens
from tests.cache.forest import NAMESPACE, Forest, Name, Tokens, blocks_of
from tests.conftest import scaled

HALF_LIFE = 10.0
LONGEST = 3
PROMPTS: list[Tokens] = [(0, 0, 0, 0, 0), (0, 0, 0, 1), (0, 1, 1), (1, 0)]
CHAINS = [list(blocks_of(prompt, LONGEST).items()) for prompt in PROMPTS]
UNIVERSE = sorted(
    {about._replace(kind=kind) for chain in CHAINS for _, about in chain for kind in (ROWS, STATE)}
)
NAMES = [(about.key, about.kind) for about in UNIVERSE]
TIERS = st.sampled_from(Tier)
NEEDS = st.sampled_from([0, 1, 4097, 1 << 20, 1 << 30])
COSTS = st.sampled_from([0.0, 0.001, 0.3, 9.0])
SIZES = st.sampled_from([1, 100, 4096, 1 << 20])


def name_of(node: Node) -> Name:
    return (node.key, node.kind)


class Machine(RuleBasedStateMachine):
    """Everything that can be done to an index, done to a forest as well."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index(HALF_LIFE)
        self.forest = Forest(UNIVERSE, HALF_LIFE)
        self.now = 0.0
        self.leased: list[list[Node]] = []

    def add(self, tier: Tier, about: About, nbytes: int, seconds: float = 0.0) -> None:
        node = self.index.add(tier, about, nbytes, now=self.now, seconds=seconds)
        assert (node.key, node.kind, node.start, node.num_tokens) == (
            about.key,
            about.kind,
            about.start,
            about.num_tokens,
        )
        self.forest.add(tier, name_of(node), nbytes, self.now, seconds)

    @rule(passed=st.floats(0, 3 * HALF_LIFE))
    def wait(self, passed: float) -> None:
        self.now += passed

    @rule(tier=TIERS, about=st.sampled_from(UNIVERSE), nbytes=SIZES, seconds=COSTS)
    def add_one(self, tier: Tier, about: About, nbytes: int, seconds: float) -> None:
        self.add(tier, about, nbytes, seconds)

    @rule(tier=TIERS, data=st.data(), nbytes=SIZES, has_state=st.booleans())
    def add_path(self, tier: Tier, data: st.DataObject, nbytes: int, *, has_state: bool) -> None:
        chain = data.draw(st.sampled_from(CHAINS))
        cut, _ = data.draw(st.sampled_from(chain))
        blocks = [about for other, about in chain if cut[: len(other)] == other]
        if has_state:
            blocks.append(data.draw(st.sampled_from(blocks))._replace(kind=STATE))
        order = data.draw(st.permutations(blocks))
        for about in order[: data.draw(st.integers(1, len(order)))]:
            self.add(tier, about, nbytes)

    @precondition(lambda self: any(self.index.nodes()))
    @rule(tier=TIERS, data=st.data())
    def discard(self, tier: Tier, data: st.DataObject) -> None:
        node = self.draw_node(data)
        self.index.discard(node, tier)
        self.forest.discard(name_of(node), tier)

    @precondition(lambda self: any(self.index.nodes()))
    @rule(data=st.data())
    def lease(self, data: st.DataObject) -> None:
        nodes = list(self.index.match(NAMESPACE, data.draw(st.sampled_from(PROMPTS))).path)
        nodes.append(self.draw_node(data))
        self.index.lease(nodes)
        self.leased.append(nodes)
        for node in nodes:
            self.forest.entries[name_of(node)].leases += 1

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        nodes = self.leased.pop(data.draw(st.integers(0, len(self.leased) - 1)))
        self.index.release(nodes)
        self.forest.release([name_of(node) for node in nodes])

    @rule(name=st.sampled_from(NAMES))
    def pin(self, name: Name) -> None:
        self.index.pin(name[0])
        self.forest.pins.add(name[0])

    @precondition(lambda self: self.forest.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.forest.pins)))
        self.index.unpin(key)
        self.forest.pins.discard(key)

    @rule(prompt=st.sampled_from(PROMPTS))
    def touch(self, prompt: Tokens) -> None:
        match = self.index.match(NAMESPACE, prompt)
        nodes = [*match.path, *([match.state] if match.state else [])]
        self.index.touch(nodes, self.now)
        self.forest.touch([name_of(node) for node in nodes], self.now)
        self.check_ancestors(nodes)

    @precondition(lambda self: any(self.index.nodes()))
    @rule(data=st.data())
    def touch_one(self, data: st.DataObject) -> None:
        node = self.draw_node(data)
        self.index.touch([node], self.now)
        self.forest.touch([name_of(node)], self.now)
        self.check_ancestors([node])

    def check_ancestors(self, nodes: list[Node]) -> None:
        for node in nodes:
            above = node.parent
            while above is not None and above.key != ROOT:
                assert not above.tiers or above.rank >= node.rank
                above = above.parent

    @rule(tier=TIERS, need=NEEDS, is_done=st.booleans())
    def victims(self, tier: Tier, need: int, *, is_done: bool) -> None:
        victims = self.index.victims(tier, need)
        gone: set[Name] = set()
        freed = 0
        for node in victims:
            assert freed < need, "one more than needed"
            candidates = self.forest.may_go(tier, gone)
            worth = candidates[name_of(node)]
            assert worth <= min(candidates.values()) * (1 + 1e-9)
            gone.add(name_of(node))
            freed += self.forest.entries[name_of(node)].copies[tier]
        assert freed >= need or not self.forest.may_go(tier, gone)
        assert [name_of(n) for n in self.index.victims(tier, need)] == [name_of(n) for n in victims]
        if is_done:
            for node in victims:
                self.index.discard(node, tier)
                self.forest.discard(name_of(node), tier)

    @rule(prompt=st.sampled_from(PROMPTS), needs_state=st.booleans(), is_packed=st.booleans())
    def match(self, prompt: Tokens, *, needs_state: bool, is_packed: bool) -> None:
        tokens = pack_tokens(prompt) if is_packed else prompt
        match = self.index.match(NAMESPACE, tokens, needs_state=needs_state)
        path = tuple(name_of(node) for node in match.path)
        paths = self.forest.paths(prompt)

        def score(path: tuple[Name, ...]) -> tuple[int, int]:
            state = self.forest.state_on(path) if needs_state else None
            end = self.forest.entries[path[-1]].end if path else 0
            return (self.forest.entries[state].end if state else 0, end)

        assert path in paths
        assert score(path) == max(map(score, paths))
        assert match.length == score(path)[1]
        assert (name_of(match.state) if match.state else None) == self.forest.state_on(path)
        before = path[-1][0] if path else ROOT
        following = {
            key: entry
            for (key, kind), entry in self.forest.entries.items()
            if kind == ROWS and entry.about.parent == before
        }
        assert match.seen_children == any(entry.is_attached for entry in following.values())
        ours = {about.key for _, about in CHAINS[PROMPTS.index(prompt)]}
        lost = [entry for key, entry in following.items() if key in ours and not entry.copies]
        assert not match.is_lost or lost
        assert match.is_lost or not any(entry.is_attached for entry in lost)

    @rule()
    def restart(self) -> None:
        """What a new process knows after listing the directory and reading the usage file."""
        old = self.index
        other = Index(HALF_LIFE)
        for node in self.index.nodes():
            entry = self.forest.entries[name_of(node)]
            for tier, nbytes in entry.copies.items():
                other.add(tier, entry.about, nbytes, now=0.0, seconds=entry.seconds)
        other.set_heats(self.index.heats(self.now), self.now)
        for node in other.nodes():
            before = old.get(node.key, node.kind)
            assert before is not None
            heat = policy.heat_at(before.level, self.now, HALF_LIFE)
            assert policy.heat_at(node.level, self.now, HALF_LIFE) >= 0.999 * heat - 1e-6
            if node.parent is not None and node.parent.tiers:
                assert node.parent.rank >= node.rank
        assert other.check() == []

    def draw_node(self, data: st.DataObject) -> Node:
        there = [name for name in NAMES if self.index.get(*name)]
        node = self.index.get(*data.draw(st.sampled_from(there)))
        assert node is not None
        return node

    @invariant()
    def is_sound(self) -> None:
        assert self.index.check() == []
        there = {name: entry for name, entry in self.forest.entries.items() if entry.copies}
        assert {name_of(node) for node in self.index.nodes()} == set(there)
        assert self.index.pins() == self.forest.pins
        for tier in Tier:
            sizes = [entry.copies[tier] for entry in there.values() if tier in entry.copies]
            assert self.index.bytes_of(tier) == sum(sizes)
            assert self.index.count_of(tier) == len(sizes)
        for name, entry in self.forest.entries.items():
            node = self.index.get(*name)
            if entry.copies:
                assert node is not None
                assert bool(node.holds) == self.forest.is_held(name)
                assert node.leases == entry.leases
                assert math.isclose(2**node.rank, entry.worth, rel_tol=1e-9)


def test_the_index_does_what_dictionaries_do() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=scaled(60, 3000), stateful_step_count=40, database=None, deadline=None
        ),
    )


def chain(tokens: Tokens, lengths: list[int], namespace: bytes = NAMESPACE) -> list[About]:
    """Blocks of these lengths that follow each other."""
    found: list[About] = []
    parent, start = ROOT, 0
    for count in lengths:
        key = block_key(namespace, parent, pack_tokens(tokens[start : start + count]))
        found.append(About(key, parent, ROWS, start, count))
        parent, start = key, start + count
    return found


def filled(abouts: list[About], tier: Tier = Tier.DISK, nbytes: int = 10) -> Index:
    index = Index()
    for about in abouts:
        index.add(tier, about, nbytes, now=0.0)
    return index


def test_a_shorter_block_is_followed_where_it_leads_farther() -> None:
    tokens = tuple(range(20))
    longest_first, farthest = chain(tokens, [8, 8]), chain(tokens, [3, 8, 8])
    index = filled([*longest_first, *farthest])
    match = index.match(NAMESPACE, tokens)
    assert [node.key for node in match.path] == [about.key for about in farthest]
    assert match.length == 19


def test_a_path_with_a_state_is_preferred_where_one_is_needed() -> None:
    tokens = tuple(range(20))
    far, with_state = chain(tokens, [8, 8]), chain(tokens, [3, 8])
    index = filled([*far, *with_state, with_state[0]._replace(kind=STATE)])
    assert index.match(NAMESPACE, tokens).length == 16
    match = index.match(NAMESPACE, tokens, needs_state=True)
    assert match.state is not None
    assert (match.length, match.state.end) == (11, 3)


def test_nothing_is_found_in_another_namespace_or_without_its_parent() -> None:
    tokens = tuple(range(12))
    first, second, third = chain(tokens, [4, 4, 4])
    index = filled([third, first])
    match = index.match(NAMESPACE, tokens)
    assert (match.length, match.is_lost) == (4, False)
    assert index.match(b"m" * 32, tokens).path == ()
    index.add(Tier.MEMORY, second, 10, now=0.0)
    assert index.match(NAMESPACE, tokens).length == 12
    node = index.get(second.key)
    assert node is not None
    index.discard(node, Tier.MEMORY)
    match = index.match(NAMESPACE, tokens)
    assert (match.length, match.is_lost, match.seen_children) == (4, True, True)


def test_names_that_contradict_each_other_change_nothing() -> None:
    first, second, third = chain(tuple(range(12)), [4, 4, 4])
    index = filled([first, third])
    for lie in (
        first._replace(start=4),
        first._replace(num_tokens=5),
        first._replace(parent=third.key, start=12),
        second._replace(start=0),
        second._replace(num_tokens=9),
        second._replace(num_tokens=0),
        second._replace(start=-4, num_tokens=12),
        second._replace(parent=ROOT),
        second._replace(parent=second.key, start=8),
        third._replace(parent=first.key),
        third._replace(kind=STATE, start=7),
        About(ROOT, first.key, ROWS, 4, 4),
    ):
        with pytest.raises(ValueError, match="block"):
            index.add(Tier.DISK, lie, 10, now=0.0)
        assert index.check() == []
        assert index.count_of(Tier.DISK) == 2


def test_only_what_is_in_a_tier_can_be_leased_and_only_what_is_leased_released() -> None:
    first, second = chain(tuple(range(8)), [4, 4])
    index = filled([first, second])
    nodes = list(index.match(NAMESPACE, range(8)).path)
    index.lease(nodes)
    index.discard(nodes[0], Tier.DISK)
    with pytest.raises(ValueError, match="in no tier"):
        index.lease(reversed(nodes))
    assert [node.leases for node in nodes] == [1, 1]
    index.release(nodes)
    with pytest.raises(ValueError, match="not leased"):
        index.release(nodes[1:])
    assert index.check() == []


def test_sizes_and_logits_are_of_the_copy_that_has_them() -> None:
    (about,) = chain((1, 2, 3), [3])
    index = Index()
    node = index.add(Tier.MEMORY, about, 100, now=0.0, logits_bytes=64)
    index.add(Tier.DISK, about, 4096, now=0.0)
    sizes = [(copy.nbytes, copy.logits_bytes) if copy else None for copy in node.copies]
    assert sizes == [(100, 64), None, (4096, 0)]
    assert (node.nbytes, node.logits_bytes) == (4096, 64)
    index.add(Tier.DISK, about, 8192, now=0.0, logits_bytes=64)
    assert (index.bytes_of(Tier.DISK), index.count_of(Tier.DISK)) == (8192, 1)


def test_a_parent_that_comes_later_is_held_by_what_is_leased_already() -> None:
    first, second, third = chain(tuple(range(12)), [4, 4, 4])
    index = filled([first, third])
    node = index.get(third.key)
    assert node is not None
    index.lease([node])
    assert [victim.key for victim in index.victims(Tier.DISK, 100)] == [first.key]
    index.add(Tier.DISK, second, 10, now=0.0)
    assert index.victims(Tier.DISK, 100) == []
    index.release([node])
    assert [victim.start for victim in index.victims(Tier.DISK, 100)] == [8, 4, 0]


def test_what_is_pinned_before_it_exists_stays_when_it_comes() -> None:
    first, second, third = chain(tuple(range(12)), [4, 4, 4])
    index = Index()
    index.pin(second.key)
    for about in (second._replace(kind=STATE), third, second, first):
        index.add(Tier.DISK, about, 10, now=0.0)
    assert [victim.key for victim in index.victims(Tier.DISK, 100)] == [third.key]
    for node in list(index.nodes()):
        index.discard(node, Tier.DISK)
    assert len(index) == 0
    assert index.pins() == {second.key}


def test_what_is_hit_often_outlives_what_is_new_and_not_for_ever() -> None:
    (often,), (once,), (later,) = (chain((first, 0, 0), [3]) for first in (1, 2, 3))
    index = Index(half_life=10.0)
    node = index.add(Tier.DISK, often, 10, now=0.0)
    for now in (1.0, 2.0, 3.0):
        index.touch([node], now)
    index.add(Tier.DISK, once, 10, now=4.0)
    assert [victim.key for victim in index.victims(Tier.DISK, 10)] == [once.key]
    index.add(Tier.DISK, later, 10, now=40.0)
    assert [v.key for v in index.victims(Tier.DISK, 30)] == [once.key, often.key, later.key]


def test_bytes_that_save_little_time_go_first() -> None:
    index = Index()
    facts = {1: (10, 1.0), 2: (100, 1.0), 3: (10, 0.5), 4: (100, 100.0)}
    for first, (nbytes, seconds) in facts.items():
        index.add(Tier.DISK, chain((first,), [1])[0], nbytes, now=0.0, seconds=seconds)
    names = {chain((first,), [1])[0].key: first for first in facts}
    assert [names[victim.key] for victim in index.victims(Tier.DISK, 999)] == [2, 3, 1, 4]


def test_where_ways_part_a_hit_counts_more() -> None:
    tokens = [(0, 0, 0, 0, last) for last in range(4)]
    abouts = {about for one in tokens for about in chain(one, [2, 2, 1])}
    index = filled(sorted(abouts))
    first, second, last = index.match(NAMESPACE, tokens[0]).path
    index.touch([first, second, last], 0.0)
    heats = [policy.heat_at(node.level, 0.0) for node in (last, second)]
    assert heats == pytest.approx([2.0, 1.0 + policy.hit_weight(4)])


def test_damaged_heats_make_blocks_cold_and_strange_names_are_ignored() -> None:
    abouts = [chain((first,), [1])[0] for first in range(6)]
    index = filled(abouts)
    strange = [(math.nan, 0.0), (-1.0, 0.0), (math.inf, 0.0), (1.0, math.nan), (0.0, 0.0)]
    heats = {about.key: heat for about, heat in zip(abouts, strange, strict=False)}
    index.set_heats({**heats, b"x" * 32: (1.0, 0.0)}, now=5.0)
    assert index.check() == []
    victims = index.victims(Tier.DISK, 1000)
    assert {victim.key for victim in victims[:5]} == set(heats)
    assert [victim.rank for victim in victims[:5]] == [policy.COLD] * 5
    assert set(index.heats(5.0)) == {abouts[5].key}


def test_a_heat_of_the_future_counts_from_now() -> None:
    (about,) = chain((1,), [1])
    index = filled([about])
    index.set_heats({about.key: (3.0, 1e12)}, now=5.0)
    assert index.heats(5.0)[about.key] == (pytest.approx(3.0), 5.0)


def test_time_does_not_change_who_goes_first() -> None:
    choice = random.Random(7)
    tokens = [tuple(choice.randrange(3) for _ in range(12)) for _ in range(60)]
    index = Index(half_life=10.0)
    for one in tokens:
        for about in chain(one, [4, 4, 4]):
            index.add(Tier.DISK, about, choice.randrange(1, 99), now=choice.uniform(0, 50))
    victims = index.victims(Tier.DISK, 1 << 30)
    assert len(victims) == index.count_of(Tier.DISK)
    worths = [policy.heat_at(node.rank, now, 10.0) for now in (60.0, 600.0) for node in victims]
    half = len(worths) // 2
    assert [a / b for a, b in pairwise(worths[:half])] == pytest.approx(
        [a / b for a, b in pairwise(worths[half:])]
    )


def test_a_queue_does_not_grow_with_what_happened_only_with_what_is_there() -> None:
    queue = Queue(Tier.DISK)
    nodes = [Node(bytes([first]), ROWS, 1) for first in range(10)]
    queue.count = len(nodes)
    for rank in range(2000, 0, -1):
        for node in nodes:
            node.tiers, node.rank = Tier.DISK.bit, float(rank)
            queue.offer(node)  # the first time: then it is there
            queue.lowered(node)
    assert len(queue) < 100
    assert queue.covered() == set(nodes)


@given(st.lists(st.sampled_from(UNIVERSE), unique=True), st.randoms())
@settings(max_examples=scaled(50, 2000), database=None, deadline=None)
def test_the_order_of_adding_changes_nothing(abouts: list[About], choice: random.Random) -> None:
    def seen(index: Index) -> list[object]:
        nodes = sorted(index.nodes(), key=name_of)
        below = Counter(str(node.below) for node in nodes)
        found = [[node.key for node in index.match(NAMESPACE, p).path] for p in PROMPTS]
        return [[(name_of(n), n.start, n.num_tokens, n.lengths) for n in nodes], below, found]

    one = filled(abouts)
    choice.shuffle(abouts)
    other = filled(abouts)
    assert seen(one) == seen(other)
    assert one.check() == other.check() == []
