"""Devices as llama.cpp lists them: on machines of the tests there is a CPU and no other."""

from __future__ import annotations

import ctypes

import pytest

from samovar.native import devices


def test_a_cpu_is_no_graphics_processor() -> None:
    for one in devices.devices():  # none, unless this build has a GPU
        assert 0 <= one.free <= one.total


def test_devices_are_told_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls are llama.cpp's own on its CPU device, taken for a graphics processor."""
    found = devices.libraries()
    assert found is not None, "the libraries of llama.cpp are not where they are looked for"
    listing, base = found
    assert listing.ggml_backend_dev_count() >= 1
    kinds = {
        base.ggml_backend_dev_type(listing.ggml_backend_dev_get(i))
        for i in range(listing.ggml_backend_dev_count())
    }
    monkeypatch.setattr(devices, "_GPU", min(kinds))
    (one, *_) = devices.devices()
    assert one.name
    assert 0 < one.free <= one.total
    assert one.total <= 2 ** (8 * ctypes.sizeof(ctypes.c_size_t)) - 1


def test_without_its_libraries_there_are_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "libraries", lambda: None)
    assert devices.devices() == []
