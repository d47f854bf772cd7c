"""The tests of the cache find bugs: each of these, put in on purpose, is found by one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from samovar.cache import block, explain
from samovar.cache.index import index
from samovar.cache.index.index import Index
from samovar.cache.index.queue import Queue
from samovar.cache.keys import Namespace
from samovar.cache.store import Scope
from samovar.engine.restoring import Restoring
from samovar.engine.scopes import Scopes
from samovar.engine.sequence import Sequence
from samovar.errors import SamovarError
from samovar.native.interface import StateKind
from samovar.native.weightless import WeightlessPiece
from tests.cache import test_store
from tests.engine import test_cached, test_cached_faults
from tests.engine.builders import KINDS
from tests.engine.conversations import Conversation, roomy_conversations
from tests.engine.test_mutants import Patch, nothing, wrapped

FOUND = (AssertionError, SamovarError, ValueError, RuntimeError)
"""How a bug shows: what was said is wrong, or somebody noticed before."""


def check_conversations(kind: StateKind) -> Callable[[], None]:
    """The property of test_cached_texts.py where everything is kept, in a fixed order."""

    @settings(
        max_examples=15,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(roomy_conversations(kind))
    def run(conversation: Conversation) -> None:
        conversation.play()

    return run


DIVISIBLE, TAILED, WHOLE = (check_conversations(kind) for kind in KINDS)


def unchained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a block says nothing of what comes before it."""
    original = block.block_key
    for module in (block, index, explain):
        monkeypatch.setattr(
            module, "block_key", lambda space, _, tokens: original(space, bytes(32), tokens)
        )


def without_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is leased may be evicted like anything else."""
    for name in ("lease", "release"):
        wrapped(Index, name, nothing)(monkeypatch)


def without_adapters(original: Callable[..., Scope], scopes: Scopes, one: Sequence) -> Scope:
    """What is computed under adapters is kept as if there were none."""
    del original
    return scopes._store.scope((), one.salt)  # noqa: SLF001 - what is left out is the point


def without_scales(original: Callable[..., Namespace], space: Namespace, *args: Any) -> Namespace:  # noqa: ANN401
    """An adapter counts, and how much of it does not."""
    adapters, *rest = args
    return original(space, [(name, 1.0) for name, _ in adapters], *rest)


def without_salt(original: Callable[..., Namespace], space: Namespace, *args: Any) -> Namespace:  # noqa: ANN401
    """Everybody sees everything."""
    return original(space, args[0])


def one_too_far(original: Callable[..., None], one: Sequence, computed: int, now: float) -> None:
    """A sequence resumes behind a token that did not come."""
    original(one, computed + (0 < computed < one.num_tokens), now)


def one_too_few(original: Callable[..., int], *args: Any) -> int:  # noqa: ANN401
    """A sequence resumes before a token that is there."""
    return max(0, original(*args) - 1)


def beside(original: Callable[..., list[Any]], piece: WeightlessPiece, *args: int) -> list[Any]:
    """A block that is not the first one goes one position too far to the front."""
    start, end = args
    return original(piece, start - (start > 0), end - (start > 0))


MUTANTS: dict[str, tuple[Patch, Callable[[], None]]] = {
    "a key says nothing of what comes before": (
        unchained,
        test_store.check_a_key_stands_for_everything_before_it,
    ),
    "salts are ignored": (
        wrapped(Namespace, "under", without_salt),
        DIVISIBLE,
    ),
    "adapters are missing from the namespace": (
        wrapped(Scopes, "of", without_adapters),
        test_cached.check_adapters_are_told_apart,
    ),
    "scales of adapters are missing from the namespace": (
        wrapped(Namespace, "under", without_scales),
        test_cached.check_adapters_are_told_apart,
    ),
    "a parent is evicted before its child": (
        wrapped(Queue, "may_go", lambda _, queue, node, __=0: bool(node.tiers & queue.tier.bit)),
        test_store.check_nothing_is_evicted_before_what_hangs_on_it,
    ),
    "a lease is not taken": (
        without_leases,
        test_store.check_what_is_leased_stays,
    ),
    "a sequence resumes one token too far": (
        wrapped(Sequence, "run", one_too_far),
        DIVISIBLE,
    ),
    "a whole state resumes one token too far": (
        wrapped(Sequence, "run", one_too_far),
        WHOLE,
    ),
    "a sequence resumes one token too early": (
        wrapped(Restoring, "_bring", one_too_few),
        TAILED,
    ),
    "what was to be read apart is taken for whole": (
        wrapped(Restoring, "_is_as_planned", lambda *_: True),
        test_cached_faults.check_damage_is_a_miss,
    ),
    "rows are read beside their place": (
        wrapped(WeightlessPiece, "places", beside),
        DIVISIBLE,
    ),
    "contents are not verified": (
        lambda monkeypatch: monkeypatch.setattr(block, "_checksum", lambda *_: bytes(8)),
        test_cached_faults.check_damage_is_a_miss,
    ),
}


@pytest.mark.parametrize("check", {check for _, check in MUTANTS.values()})
def test_without_a_bug_nothing_is_found(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_bug_put_in_on_purpose_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, check = MUTANTS[name]
    patch(monkeypatch)
    with pytest.raises(FOUND):
        check()
