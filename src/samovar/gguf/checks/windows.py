"""Sliding windows: their length, and which layers have one.

`create_memory` (src/llama-model.cpp) asserts that a model with windows has a layer with one, and
src/llama-kv-cache.cpp that layers without KV of their own find a layer of their kind to share.
"""

from __future__ import annotations

from samovar.gguf.architectures import ENCODERS
from samovar.gguf.checks.keys import in_range, refuse
from samovar.gguf.header import Header
from samovar.gguf.stack import PATTERN, Stack, stack_of, window_rule
from samovar.gguf.values import ValueType

# The cells of all windows of a context must fit 32 bits (src/llama-kv-cache-iswa.cpp).
MAX_WINDOW = 1 << 22
# Their graphs fill the mask of both kinds of layers, and need one of each.
MIXED = ENCODERS | {"dots3note"}
SHARING = frozenset({"gemma3n", "gemma4"})


def check_windows(header: Header) -> None:
    """Raises MalformedGGUF."""
    window = header.sliding_window
    if window is not None:
        in_range(header, header.of_arch("attention.sliding_window"), window, 0, MAX_WINDOW)
    rule = window_rule(header)
    if rule is None:
        return
    ref = header.array_ref(header.of_arch(PATTERN))
    if ref is not None and ref.element_type is ValueType.STRING:
        raise refuse(header, f"{header.of_arch(PATTERN)} is an array of strings")
    stack = stack_of(header)
    if not any(stack.is_windowed):
        raise refuse(header, "it has a sliding window, and no layer that uses it")
    if header.architecture in MIXED and all(stack.is_windowed):
        raise refuse(header, "every layer has a sliding window, and one must do without")
    if header.architecture in SHARING:
        _check_sharing(header, stack)


def _check_sharing(header: Header, stack: Stack) -> None:
    """Layers without KV use the last layer with it, or the one before if they have a window."""
    own = sum(stack.has_kv)
    sharing = stack.is_windowed[own:]
    if own < 2:
        raise refuse(header, f"{own} layers keep KV, and at least 2 must")
    needs_full, needs_windowed = not all(sharing), any(sharing)
    if needs_full and stack.is_windowed[own - 1]:
        raise refuse(header, f"layer {own - 1} has a window, and later layers need its whole KV")
    if needs_windowed and not stack.is_windowed[own - 2]:
        raise refuse(header, f"layer {own - 2} has no window, and later layers need one")
