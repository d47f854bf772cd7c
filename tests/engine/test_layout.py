"""The plan of a context: lanes where memory allows them, else the pool."""

from __future__ import annotations

from dataclasses import replace

import pytest

from samovar import gguf
from samovar.engine import layout
from samovar.native import memory
from samovar.native.context import ContextOptions
from tests.conftest import Models

FOUR = ContextOptions(num_sequences=4)


@pytest.fixture
def header(models: Models) -> gguf.Header:
    return gguf.read_header(models("llama"))


def room_for(header: gguf.Header, options: ContextOptions, kv_layout: str) -> int:
    """Free memory in which just such a context is half of all."""
    return 2 * memory.context_bytes(header, replace(options, layout=kv_layout))


def test_plenty_of_memory_makes_lanes(header: gguf.Header, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**50)
    found = layout.plan(header, FOUR)
    assert (found.layout, found.context_length) == ("lanes", header.n_ctx_train)


def test_an_unknown_amount_of_memory_makes_lanes(
    header: gguf.Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    assert layout.plan(header, FOUR).layout == "lanes"


def test_lanes_that_do_not_fit_become_a_pool_of_the_length_that_was_asked_for(
    header: gguf.Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(FOUR, context_length=65536)
    lanes, pool = room_for(header, asked, "lanes"), room_for(header, asked, "pool")
    assert pool < lanes
    monkeypatch.setattr(memory, "available_bytes", lambda: lanes - 2)
    found = layout.plan(header, asked)
    assert (found.layout, found.context_length) == ("pool", 65536)
    monkeypatch.setattr(memory, "available_bytes", lambda: lanes)
    assert layout.plan(header, asked).layout == "lanes"


def test_a_layout_that_is_asked_for_is_kept(
    header: gguf.Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(FOUR, context_length=65536)
    for free in (2**50, 1000):
        monkeypatch.setattr(memory, "available_bytes", lambda free=free: free)
        for kv_layout in ("lanes", "pool"):
            assert layout.plan(header, asked, kv_layout).layout == kv_layout
