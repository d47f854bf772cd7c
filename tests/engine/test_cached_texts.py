"""With a cache a request gets the text that it gets without, whatever the cache holds or loses."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from samovar.native.interface import StateKind
from tests.conftest import scaled
from tests.engine.builders import KINDS
from tests.engine.conversations import Conversation, conversations


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_says_with_a_cache_what_it_says_without(kind: StateKind) -> None:
    restored: dict[str, int] = {}

    @settings(
        max_examples=scaled(60, 2000),
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
    )
    @given(conversations([kind]))
    def run(conversation: Conversation) -> None:
        for tier, count in conversation.play().restored.items():
            restored[tier] = restored.get(tier, 0) + count

    run()
    assert sum(restored.values()) > 100
