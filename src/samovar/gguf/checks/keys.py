"""Metadata values with the type and range that llama.cpp takes for granted."""

from __future__ import annotations

import math

from samovar.errors import MalformedGGUF
from samovar.gguf.header import MAX_LAYERS, Header
from samovar.gguf.show import shown
from samovar.gguf.values import ArrayRef, ValueType

# The element types that llama.cpp reads per-layer numbers from (`get_arr`,
# src/llama-model-loader.cpp).
LAYER_TYPES = (ValueType.UINT32, ValueType.INT32, ValueType.BOOL)


def refuse(header: Header, problem: str) -> MalformedGGUF:
    """The error for metadata that cannot be true."""
    return MalformedGGUF(
        f"{shown(header.path)}: {problem}: the file is damaged or badly converted, get it again"
    )


def text_key(header: Header, key: str) -> str | None:
    """A string, or None where the file is silent. Raises MalformedGGUF.

    Strings that steer llama.cpp may hold no zero byte: C would read only what is before it.
    """
    found = header.metadata.get(key)
    if found is None:
        return None
    if not isinstance(found.value, str):
        raise refuse(header, f"{key} is of type {found.label}, not string")
    if "\0" in found.value:
        raise refuse(header, f"{key} contains a zero byte")
    return found.value


def count_key(header: Header, key: str, low: int, high: int) -> int | None:
    """A uint32 in [low, high], or None where the file is silent. Raises MalformedGGUF."""
    found = header.metadata.get(key)
    if found is None:
        return None
    if found.type is not ValueType.UINT32 or not isinstance(found.value, int):
        raise refuse(header, f"{key} is of type {found.label}, not uint32")
    return in_range(header, key, found.value, low, high)


def required_count(header: Header, key: str, low: int, high: int) -> int:
    """As `count_key`, but the key must be there."""
    found = count_key(header, key, low, high)
    if found is None:
        raise refuse(header, f"{key} is missing")
    return found


def layer_counts(header: Header, suffix: str, layers: int, high: int) -> tuple[int, ...] | None:
    """A number in [0, high] for each layer, from a scalar or an array of `layers` numbers.

    None where the file is silent. Raises MalformedGGUF.
    """
    key = header.of_arch(suffix)
    ref = header.array_ref(key)
    if ref is None:
        scalar = count_key(header, key, 0, high)
        return None if scalar is None else (scalar,) * layers
    _check_layer_array(header, key, ref, layers)
    return tuple(in_range(header, key, int(x), 0, high) for x in header.numbers(key))


def _check_layer_array(header: Header, key: str, ref: ArrayRef, layers: int) -> None:
    if ref.element_type not in LAYER_TYPES:
        raise refuse(header, f"{key} is an array of {ref.element_type.label}, not uint32")
    if ref.count != layers or ref.count > MAX_LAYERS:
        raise refuse(header, f"{key} has {ref.count} numbers for {layers} layers")


def number_key(header: Header, key: str, low: float, high: float) -> float | None:
    """A float32 in [low, high], or None where the file is silent. Raises MalformedGGUF."""
    found = header.metadata.get(key)
    if found is None:
        return None
    if found.type is not ValueType.FLOAT32 or not isinstance(found.value, float):
        raise refuse(header, f"{key} is of type {found.label}, not float32")
    if not math.isfinite(found.value) or not low <= found.value <= high:
        raise refuse(header, f"{key} is {found.value:g}, outside {low:g} to {high:g}")
    return found.value


def in_range(header: Header, key: str, value: int, low: int, high: int) -> int:
    """`value` if it is in [low, high]. Raises MalformedGGUF."""
    if not low <= value <= high:
        raise refuse(header, f"{key} is {value}, outside {low} to {high}")
    return value
