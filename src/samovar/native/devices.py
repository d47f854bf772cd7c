"""What llama.cpp says of the memory of graphics processors, if this build has any."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

from samovar.native import library

_GPU, _INTEGRATED = 1, 2  # ggml_backend_dev_type


@dataclass(frozen=True, slots=True)
class Device:
    """One graphics processor."""

    name: str
    is_integrated: bool
    """Its memory is the machine's own."""
    free: int
    total: int
    """Bytes."""


@functools.cache
def libraries() -> tuple[ctypes.CDLL, ctypes.CDLL] | None:
    """Those that list devices and describe them; None where they are built in another way."""
    folder = library.describe().path
    try:
        listing = ctypes.CDLL(str(folder / "libggml.so"))
        base = ctypes.CDLL(str(folder / "libggml-base.so"))
        listing.ggml_backend_dev_count.restype = ctypes.c_size_t
        listing.ggml_backend_dev_get.restype = ctypes.c_void_p
        listing.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
        base.ggml_backend_dev_name.restype = ctypes.c_char_p
        base.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
        base.ggml_backend_dev_type.restype = ctypes.c_int
        base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
        size = ctypes.POINTER(ctypes.c_size_t)
        base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]
    except (OSError, AttributeError):
        return None
    return listing, base


def devices() -> list[Device]:
    """Every graphics processor that llama.cpp can use, with the memory it has free now."""
    found = libraries()
    if found is None:
        return []
    listing, base = found
    devices = []
    for index in range(listing.ggml_backend_dev_count()):
        device = listing.ggml_backend_dev_get(index)
        kind = base.ggml_backend_dev_type(device)
        if kind not in (_GPU, _INTEGRATED):
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name = base.ggml_backend_dev_name(device).decode("utf-8", "replace")
        devices.append(Device(name, kind == _INTEGRATED, free.value, total.value))
    return devices
