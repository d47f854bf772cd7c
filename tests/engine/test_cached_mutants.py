"""The tests of the cache find bugs: each of these, put in on purpose, is found by one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from samovar.cache import block, explain, index
from samovar.cache.index import Index
from samovar.cache.keys import Namespace
from samovar.cache.queue import Queue
from samovar.cache.store import Scope
from samovar.engine.restoring import Restoring
from samovar.engine.saving import Saving
from samovar.engine.scopes import Scopes
from samovar.engine.sequence import Sequence
from samovar.errors import SamovarError
from samovar.native.interface import StateKind
from tests.cache import test_store
from tests.engine import test_cached_faults
from tests.engine.conversations import Conversation, conversations
from tests.engine.test_mutants import Patch, nothing, wrapped

FOUND = (AssertionError, SamovarError, ValueError, RuntimeError)
"""How a bug shows: what was said is wrong, or somebody noticed before."""


def check_conversations(*kinds: StateKind) -> Callable[[], None]:
    """The property of test_cached_texts.py, in a fixed order."""

    @settings(
        max_examples=200,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(conversations(kinds))
    def run(conversation: Conversation) -> None:
        conversation.play()

    return run


def unchained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a block says nothing of what comes before it."""
    original = block.block_key
    for module in (block, index, explain):
        monkeypatch.setattr(
            module, "block_key", lambda space, _, tokens: original(space, bytes(32), tokens)
        )


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


MUTANTS: dict[str, tuple[Patch, Callable[[], None]]] = {
    "a key says nothing of what comes before": (
        unchained,
        check_conversations(StateKind.DIVISIBLE),
    ),
    "salts are ignored": (
        wrapped(Namespace, "under", without_salt),
        check_conversations(StateKind.DIVISIBLE),
    ),
    "adapters are missing from the namespace": (
        wrapped(Scopes, "of", without_adapters),
        check_conversations(StateKind.DIVISIBLE),
    ),
    "scales of adapters are missing from the namespace": (
        wrapped(Namespace, "under", without_scales),
        check_conversations(StateKind.DIVISIBLE),
    ),
    "a parent is evicted before its child": (
        wrapped(Queue, "may_go", lambda _, queue, node, __=0: bool(node.tiers & queue.tier.bit)),
        test_store.check_nothing_is_evicted_before_what_hangs_on_it,
    ),
    "a lease is not taken": (
        wrapped(Index, "lease", nothing),
        test_store.check_what_is_leased_stays,
    ),
    "a sequence resumes one token too far": (
        wrapped(Sequence, "run", one_too_far),
        check_conversations(StateKind.DIVISIBLE),
    ),
    "a whole state resumes one token too far": (
        wrapped(Sequence, "run", one_too_far),
        check_conversations(StateKind.INDIVISIBLE),
    ),
    "a sequence resumes one token too early": (
        wrapped(Restoring, "_bring", one_too_few),
        check_conversations(StateKind.DIVISIBLE_WITH_TAIL),
    ),
    "more is saved than is computed": (
        wrapped(Saving, "_savable", lambda original, *args: original(*args) + 1),
        check_conversations(StateKind.INDIVISIBLE),
    ),
    "contents are not verified": (
        lambda monkeypatch: monkeypatch.setattr(block, "_checksum", lambda _: bytes(8)),
        test_cached_faults.check_damage_is_a_miss,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_bug_put_in_on_purpose_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, check = MUTANTS[name]
    check()
    if name == "a lease is not taken":
        monkeypatch.setattr(Index, "release", lambda *_: None)
    patch(monkeypatch)
    with pytest.raises(FOUND):
        check()
